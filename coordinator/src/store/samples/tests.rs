use fleet_common::telemetry::{MonoNanos, Series};
use prost::Message as _;

use super::*;

fn trial() -> TrialId {
    "0123456789abcdef0123456789abcdef/0/NVIDIA X (8 GiB)".parse().expect("an id")
}

fn batch(numbers: std::ops::Range<u64>) -> v1::SampleBatch {
    let samples: Vec<Sample> = numbers
        .map(|number| Sample {
            number,
            at: MonoNanos(number * 100),
            channel: Series::AllocatorLiveBytes.into(),
            value: number as i64,
        })
        .collect();
    wire::batch(&trial(), Attempt::FIRST, &samples, 0, "boot")
}

/// A writer and its folder, asked from outside of any runtime.
struct World {
    samples: Arc<Samples>,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn open(dir: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { samples: Arc::new(Samples::open(dir).expect("opens")), runtime }
    }

    fn store(&self, batch: v1::SampleBatch) -> Option<u64> {
        self.store_of(Attempt::FIRST, batch)
    }

    fn store_of(&self, attempt: Attempt, batch: v1::SampleBatch) -> Option<u64> {
        self.runtime.block_on(self.samples.store(&trial(), attempt, batch)).expect("stores")
    }

    fn seal(&self, taken: u64) -> Seal {
        self.runtime.block_on(self.samples.seal(&trial(), Attempt::FIRST, taken)).expect("seals")
    }

    fn numbers(&self) -> Vec<u64> {
        self.numbers_of(Attempt::FIRST)
    }

    fn numbers_of(&self, attempt: Attempt) -> Vec<u64> {
        let read = self.samples.read(&trial(), attempt, None).expect("opens");
        let batches: Vec<v1::SampleBatch> = read.flat_map(|chunk| chunk.expect("reads")).collect();
        assert!(batches.iter().all(|b| wire::trial(b.trial.clone()) == Ok(trial())), "batches name their trial");
        flatten(&batches).iter().map(|s| s.number).collect()
    }

    fn file(&self) -> PathBuf {
        self.samples.tails.path(&(trial(), Attempt::FIRST))
    }

    /// What a crash would leave, in another folder.
    fn copy(&self, to: &Path) {
        let from = &self.samples.tails.dir;
        let status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs");
        assert!(status.success());
    }
}

fn intake(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir.join("intake")).into_iter().flatten().map(|e| e.expect("reads").path()).collect()
}

#[test]
fn repeats_are_dropped_overlaps_trimmed_and_gaps_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let world = World::open(dir.path());
    let store = |range| world.store(batch(range));
    assert_eq!(store(0..3), Some(2));
    assert_eq!(store(0..3), Some(2));
    assert_eq!(store(1..5), Some(4));
    assert_eq!(store(8..10), Some(9));
    let all = [0, 1, 2, 3, 4, 8, 9];
    assert_eq!(world.numbers(), all, "also before they are in the chunk file");
    assert!(!world.file().exists());
    let seal = world.seal(12);
    assert_eq!((seal.stored, seal.missing), (7, 5));
    assert_eq!(world.numbers(), all);
    let nothing = world.runtime.block_on(world.samples.seal(&trial(), Attempt::FIRST.next(), 3)).expect("seals");
    assert_eq!(nothing, Seal { stored: 0, missing: 3, crc32: 0 });
    assert_eq!(world.numbers_of(Attempt::FIRST.next()), [0; 0]);
}

#[test]
fn batches_of_one_group_are_trimmed_against_each_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let world = World::open(dir.path());
    let (id, first) = (trial(), Attempt::FIRST);
    let store = |range| world.samples.store(&id, first, batch(range));
    let stored = world.runtime.block_on(async { tokio::join!(store(0..4), store(2..6), store(1..3)) });
    let numbers = [stored.0, stored.1, stored.2].map(|number| number.expect("stores"));
    assert_eq!(numbers, [Some(3), Some(5), Some(5)]);
    assert_eq!(world.numbers(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash_and_in_chunk_files_after_the_next_start() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let world = World::open(dir.path());
    // More than a chunk, so that a part of it has left the intake's memory.
    (0..5).for_each(|i| assert_eq!(world.store(batch(i * 1000..(i + 1) * 1000)), Some(i * 1000 + 999)));
    assert!(world.file().exists());
    let crashed = other.path().join("samples");
    world.copy(&crashed);
    // The chunk file was not synced: a part of it is lost.
    let file = crashed.join(world.file().strip_prefix(dir.path()).expect("below"));
    let bytes = std::fs::read(&file).expect("reads");
    std::fs::write(&file, &bytes[..bytes.len() - 3]).expect("tears");
    assert_eq!(intake(&crashed).len(), 1);
    let again = World::open(&crashed);
    let all: Vec<u64> = (0..5000).collect();
    assert_eq!(again.numbers(), all);
    assert!(intake(&crashed).is_empty(), "everything is where it belongs");
    assert_eq!(again.store(batch(4990..5010)), Some(5009));
    assert_eq!(again.numbers().len(), 5010);
    assert_eq!(world.numbers(), all);
}

#[test]
fn a_clean_end_leaves_chunk_files_only_and_the_same_content_has_the_same_seal() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let world = World::open(dir.path());
    world.store(batch(0..6));
    let file = world.file();
    world.runtime.block_on(world.samples.stop());
    assert!(file.exists() && intake(dir.path()).is_empty());
    let stopped = world.runtime.block_on(world.samples.store(&trial(), Attempt::FIRST, batch(6..7)));
    assert!(matches!(stopped, Err(SamplesError::Stopped)), "{stopped:?}");
    drop(world);
    let (world, fresh) = (World::open(dir.path()), World::open(other.path()));
    fresh.store(batch(0..6));
    assert_eq!(world.seal(6), fresh.seal(6));
}

#[test]
fn a_file_of_an_earlier_version_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let world = World::open(dir.path());
    let mut bytes = Vec::new();
    for old in [batch(0..4), batch(6..8)] {
        let payload = old.encode_to_vec();
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(crc32fast::hash(&payload).to_le_bytes());
        bytes.extend(payload);
    }
    std::fs::create_dir_all(world.file().parent().expect("has one")).expect("makes");
    std::fs::write(world.file(), &bytes).expect("writes");
    assert_eq!(world.seal(8), Seal { stored: 6, missing: 2, crc32: crc32fast::hash(&bytes) });
    assert_eq!(world.store(batch(7..10)), Some(9));
    world.seal(10);
    assert_eq!(world.numbers(), [0, 1, 2, 3, 6, 7, 8, 9]);
}

#[test]
fn many_attempts_share_the_intake() {
    let dir = tempfile::tempdir().expect("a folder");
    let world = World::open(dir.path());
    let attempts: Vec<Attempt> = (1..=300).map(|n| n.try_into().expect("positive")).collect();
    world.runtime.block_on(async {
        for round in 0..2 {
            let store = |attempt: Attempt| {
                let samples = world.samples.clone();
                async move { samples.store(&trial(), attempt, batch(round * 2..round * 2 + 2)).await.expect("stores") }
            };
            let stored = attempts.iter().map(|a| store(*a)).collect::<tokio::task::JoinSet<_>>().join_all().await;
            assert!(stored.iter().all(|number| *number == Some(round * 2 + 1)), "{stored:?}");
        }
    });
    drop(world);
    let world = World::open(dir.path());
    attempts.iter().for_each(|a| assert_eq!(world.numbers_of(*a), [0, 1, 2, 3]));
}

/// Words that were logged while `what` was done.
fn logged(what: impl FnOnce()) -> String {
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    let subscriber = tracing_subscriber::fmt().with_writer(Log(log.clone())).finish();
    tracing::subscriber::with_default(subscriber, what);
    let bytes = log.lock().expect("whole").clone();
    String::from_utf8(bytes).expect("text")
}

#[derive(Clone)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn samples_that_come_after_the_seal_are_stored_and_are_no_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let world = World::open(dir.path());
    (0..3).for_each(|i| assert!(world.store(batch(i * 10..i * 10 + 10)).is_some()));
    let seal = world.seal(50);
    assert_eq!((seal.stored, seal.missing), (30, 20));
    assert_eq!(world.store(batch(25..45)), Some(44));
    let count = |world: &World, seal| {
        let read = world.samples.read(&trial(), Attempt::FIRST, Some(seal)).expect("opens");
        read.map(|chunk| flatten(&chunk.expect("reads")).len()).sum::<usize>()
    };
    let both = |world: &World| logged(|| assert_eq!(count(world, seal), 45));
    assert_eq!(both(&world), "", "while they are in the intake");
    drop(world);
    let world = World::open(dir.path());
    assert_eq!(both(&world), "", "once they are in the file");
    let again = world.seal(50);
    assert_eq!((again.stored, again.missing), (45, 5), "a seal of all of it is another");
    assert_eq!(logged(|| assert_eq!(count(&world, again), 45)), "");

    let file = world.file();
    let bytes = std::fs::read(&file).expect("reads");
    let is_noticed = |world: &World, seal| logged(|| assert!(count(world, seal) <= 45)).contains("not what was");
    assert!(is_noticed(&world, Seal { crc32: !seal.crc32, ..seal }), "other content");
    assert!(is_noticed(&world, Seal { stored: 29, ..seal }), "a seal in the middle of a chunk");
    std::fs::write(&file, &bytes[..20]).expect("cuts");
    assert!(is_noticed(&world, seal), "a file that is too short");
    std::fs::remove_file(&file).expect("removes");
    assert!(is_noticed(&world, seal), "no file at all");
}

#[test]
fn what_the_disk_refuses_is_not_acknowledged_or_waits_in_the_intake() {
    let dir = tempfile::tempdir().expect("a folder");
    // Files stand where folders should be: the intake's, then the chunk file's.
    let (intake_folder, blocked) = (dir.path().join("intake"), dir.path().join("01"));
    let world = World::open(dir.path());
    std::fs::write(&intake_folder, "").expect("writes");
    let refused = world.runtime.block_on(world.samples.store(&trial(), Attempt::FIRST, batch(0..10)));
    assert!(refused.expect_err("refused").to_string().contains("try again later"));
    assert_eq!(world.numbers(), [0; 0]);
    std::fs::remove_file(&intake_folder).expect("removes");
    std::fs::write(&blocked, "").expect("writes");
    let all: Vec<u64> = (0..20_000).collect();
    for part in all.chunks(2000) {
        assert_eq!(world.store(batch(part[0]..part[0] + 2000)), Some(part[0] + 1999));
    }
    assert!(world.runtime.block_on(world.samples.seal(&trial(), Attempt::FIRST, 20_000)).is_err());
    assert_eq!(world.samples.size(&trial(), Attempt::FIRST), Some(0));
    drop(world);
    assert_eq!(intake(dir.path()).len(), 1, "it is kept through the end");
    assert!(Samples::open(dir.path()).is_err(), "a start would not know where the attempt's samples end");
    std::fs::remove_file(&blocked).expect("removes");
    let world = World::open(dir.path());
    assert_eq!(world.seal(20_000).stored, 20_000);
    assert_eq!(world.numbers(), all);
    drop(world);
    assert!(intake(dir.path()).is_empty());
    let world = World::open(dir.path());
    assert_eq!(world.numbers(), all);
}
