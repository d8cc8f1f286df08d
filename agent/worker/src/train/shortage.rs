//! Was it for want of memory, and whose?
//!
//! "Does not fit" is a result, final for the cell. So it is said only where the trial itself is what did not fit: a
//! device that others have filled says nothing about the cell.

use fleet_common::record::Outcome;
use fleet_common::units::Bytes;

use super::peak_place;
use crate::torch::memory::{Memory, Place};

/// What a process holds of a GPU beside its allocator: the context, kernels, cuBLAS' and cuDNN's own memory. Measured
/// contexts take 300 to 500 MB; more than this is somebody else's.
const OWN_OVERHEAD: u64 = 1 << 30;
/// With less than this free, what fails beside the allocator (a context, a cuBLAS handle) fails for want of memory.
const NEXT_TO_NOTHING: u64 = 128 << 20;

/// The outcome of a trial that failed, if it was for want of memory. `refused`: the allocator refused something.
pub(super) fn outcome(memory: Memory, refused: bool, budget: Option<u64>) -> Option<Outcome> {
    let gpu = memory.device_memory().ok().flatten();
    let Some((free, total)) = gpu else {
        let (needed_bytes, place) = memory.last_cpu_refusal().filter(|_| refused)?;
        return Some(does_not_fit(needed_bytes, budget.unwrap_or(needed_bytes), place));
    };
    let reserved = memory.stats().map_or(0, |s| s.reserved);
    match on_gpu(refused, budget, reserved, free, total)? {
        Shortage::Own { needed, limit } => Some(does_not_fit(needed, limit, Place::current())),
        Shortage::Others { bytes } => Some(Outcome::Crashed {
            message: format!(
                "the GPU is full, and other processes hold {} of its {}: expected the device to be free for a trial. \
                 `nvidia-smi` shows who they are",
                Bytes(bytes),
                Bytes(total)
            ),
        }),
    }
}

fn does_not_fit(needed_bytes: u64, budget_bytes: u64, place: Place) -> Outcome {
    Outcome::DoesNotFit { needed_bytes, budget_bytes, place: peak_place(place) }
}

#[derive(Debug, PartialEq, Eq)]
enum Shortage {
    /// The trial needs more than `limit`. CUDA's allocator does not say how much it was asked for: a byte more at least.
    Own { needed: u64, limit: u64 },
    /// Others hold so much.
    Others { bytes: u64 },
}

fn on_gpu(refused: bool, budget: Option<u64>, reserved: u64, free: u64, total: u64) -> Option<Shortage> {
    if !refused && free >= NEXT_TO_NOTHING {
        return None;
    }
    // The cap was in the way if it left less than the device did.
    if let Some(cap) = budget
        && refused
        && cap.saturating_sub(reserved) <= free
    {
        return Some(Shortage::Own { needed: cap.max(reserved) + 1, limit: cap });
    }
    let others = total.saturating_sub(free).saturating_sub(reserved);
    if others > OWN_OVERHEAD {
        return Some(Shortage::Others { bytes: others });
    }
    let limit = total - others;
    Some(Shortage::Own { needed: limit + 1, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_cap_the_device_and_others_are_told_apart() {
        let cap = |needed, limit| Some(Shortage::Own { needed, limit });
        // 2 GiB cap on an 8 GiB board that has plenty: the cap.
        assert_eq!(on_gpu(true, Some(2 * GIB), 2 * GIB - 5, 5 * GIB, 8 * GIB), cap(2 * GIB + 1, 2 * GIB));
        // A 12 GiB cap on an empty 8 GiB board, half a GiB of it the context: the board.
        assert_eq!(on_gpu(true, Some(12 * GIB), 7 * GIB, GIB / 2, 8 * GIB), cap(15 * GIB / 2 + 1, 15 * GIB / 2));
        assert_eq!(on_gpu(true, None, 7 * GIB, GIB / 2, 8 * GIB), cap(15 * GIB / 2 + 1, 15 * GIB / 2));
        // The same, but another process holds 5 GiB.
        assert_eq!(
            on_gpu(true, Some(4 * GIB), 2 * GIB, GIB / 2, 8 * GIB),
            Some(Shortage::Others { bytes: 11 * GIB / 2 })
        );
        // Nothing was refused and there is memory: it was something else.
        assert_eq!(on_gpu(false, Some(4 * GIB), 2 * GIB, GIB, 8 * GIB), None);
        // cuBLAS found no room for its handle.
        assert_eq!(
            on_gpu(false, None, 7 * GIB + GIB / 2, 1 << 20, 8 * GIB),
            cap(8 * GIB - (GIB / 2 - (1 << 20)) + 1, 8 * GIB - (GIB / 2 - (1 << 20)))
        );
    }
}
