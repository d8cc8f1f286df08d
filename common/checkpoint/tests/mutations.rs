//! Every sample, damaged at every byte: an error or an answer, soon, and without much memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use fleet_checkpoint::Checkpoint;
use proptest::prelude::*;

/// Counts what this thread holds, and the most that it has held.
struct Counting;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn count(more: usize, less: usize) {
    // At a thread's end there may be no counter any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = (now + more).saturating_sub(less);
        held.set((now, most.max(now)));
    });
}

// SAFETY: every call is the system's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as our caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as our caller's.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `work` holds at most, beyond what is held before it.
fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    work();
    HELD.with(|held| held.get().1) - before
}

/// What reading a file of `len` bytes may hold: buffers, an unpacker's window, and a multiple of the file.
fn allowed(len: usize) -> usize {
    (192 << 10) + 128 * len
}

/// Reads a file to its last number; whether it could be.
fn read(bytes: Vec<u8>) -> bool {
    let len = bytes.len();
    let mut whole = false;
    let held = peak(|| {
        let Ok(checkpoint) = Checkpoint::from_bytes("mutated", bytes) else { return };
        let Ok(dict) = checkpoint.state_dict(None) else { return };
        // Expanded tensors have their own bound.
        let small = dict.tensors.values().all(|tensor| tensor.len() <= 16 * len as u64);
        let right = |tensor: &fleet_checkpoint::Tensor| {
            checkpoint.bytes(tensor).is_ok_and(|bytes| bytes.len() as u64 == tensor.len())
        };
        whole = small && dict.tensors.values().all(|tensor| right(tensor));
    });
    assert!(held <= allowed(len), "{held} bytes held for a file of {len}");
    whole
}

fn samples() -> Vec<(String, Vec<u8>)> {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples")).expect("lists");
    let paths = folder.map(|entry| entry.expect("lists").path()).filter(|p| p.extension().is_some_and(|e| e != "json"));
    let files = paths.map(|p| (p.display().to_string(), std::fs::read(&p).expect("reads")));
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

#[test]
fn damage_at_any_byte_is_survived() {
    let (mut files, mut whole, mut slowest) = (0, 0, Duration::ZERO);
    for (_, bytes) in samples() {
        assert!(read(bytes.clone()), "undamaged");
        for at in 0..bytes.len() {
            for change in [1u8, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                let started = Instant::now();
                whole += usize::from(read(damaged));
                slowest = slowest.max(started.elapsed());
                files += 1;
            }
        }
    }
    println!("{files} damaged files, of which {whole} can be read; the slowest took {slowest:?}");
    assert!(files > 100_000 && whole > 0 && whole < files);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn a_file_that_ends_at_any_byte_is_refused() {
    for (name, bytes) in samples() {
        for end in 0..bytes.len() {
            assert!(!read(bytes[..end].to_vec()), "{name} up to {end}");
        }
    }
}

#[test]
fn dense_pickles_hold_no_more_than_a_multiple_of_their_length() {
    // One operation per byte, each of which makes a value; the stack's bound is not reached.
    for operation in [&b"]0"[..], b"}0", b")\x940", b"]\x94a", b"K\x01q\x000", b"cx\ny\n)R0"] {
        let value = [b"]".to_vec(), operation.repeat(40_000), b".".to_vec()].concat();
        let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
        let machine = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.".to_vec();
        assert!(!read([magic, machine, b"\x80\x02".to_vec(), value, b"\x80\x02].".to_vec()].concat()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Runs of bytes exchanged, doubled and removed.
    #[test]
    fn larger_damage_is_survived(
        which in 0usize..12,
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        len in 1usize..64,
        with in prop::collection::vec(any::<u8>(), 0..32),
        kind in 0u8..3,
    ) {
        let (_, mut bytes) = samples().swap_remove(which);
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let end = (from + len).min(bytes.len());
        match kind {
            0 => drop(bytes.splice(from..end, with)),
            1 => {
                let run = bytes[from..end].to_vec();
                drop(bytes.splice(to..to, run));
            }
            _ => {
                let run = bytes[from..end].to_vec();
                let until = (to + run.len()).min(bytes.len());
                bytes[to..until].copy_from_slice(&run[..until - to]);
            }
        }
        read(bytes);
    }
}
