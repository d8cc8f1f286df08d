//! The cap on what tensors may hold: what it is, and whether it holds.

use fleet_common::record::Cap;
use fleet_common::spec::BudgetScope;
use tch::{Device, Kind, Tensor};

use super::guard;
use super::memory::{Memory, Place};

/// Above the cap by this much, an allocation must be refused: CUDA's allocator takes its memory in steps of so much.
const BEYOND: u64 = 2 << 20;

/// Why there is no cap.
#[derive(Debug, thiserror::Error)]
pub enum CapError {
    /// The process itself takes the budget: it does not fit.
    #[error("the process itself takes {overhead} of the budget's {budget} bytes")]
    NothingLeft {
        /// What the process takes beside tensors, bytes.
        overhead: u64,
        /// The budget, bytes.
        budget: u64,
    },
    /// It cannot be set, or does not hold.
    #[error("the memory budget cannot be enforced: {0}")]
    NotEnforced(String),
}

impl From<String> for CapError {
    fn from(why: String) -> Self {
        Self::NotEnforced(why)
    }
}

/// What `overhead` bytes of the process leave of `budget`.
pub(super) fn beside(budget: u64, overhead: u64) -> Result<Cap, CapError> {
    match budget.checked_sub(overhead) {
        Some(bytes) if bytes > 0 => Ok(Cap { bytes, overhead_bytes: Some(overhead) }),
        _ => Err(CapError::NothingLeft { overhead, budget }),
    }
}

/// Caps tensors on the CPU at `budget` bytes, or with [`BudgetScope::Process`] at what the process, as it is now,
/// leaves of them.
///
/// # Errors
/// The process leaves nothing, or its size cannot be read.
pub fn on_cpu(budget: u64, scope: BudgetScope) -> Result<Cap, CapError> {
    let memory = Memory::of(Device::Cpu);
    let cap = match scope {
        BudgetScope::Allocator => Cap { bytes: budget, overhead_bytes: None },
        BudgetScope::Process => {
            let held = memory.stats().map_or(0, |s| s.reserved);
            beside(budget, resident()?.saturating_sub(held))?
        }
    };
    memory.set_cpu_cap(Some(cap.bytes));
    Ok(cap)
}

/// Tries to take more than the cap, which the allocator must refuse. That an allocation failed in another way, such as a
/// device that does not answer, says nothing about the cap.
///
/// # Errors
/// It was given, or failed without having been refused.
pub fn verify(device: Device, cap: Cap) -> Result<(), CapError> {
    let before = Place::phase("start").enter();
    let bytes = i64::try_from(cap.bytes.saturating_add(BEYOND)).unwrap_or(i64::MAX);
    let take = || guard(|| drop(Tensor::empty([bytes], (Kind::Uint8, device))));
    let (taken, refused) = Memory::of(device).watch(take);
    before.enter();
    match taken {
        Ok(()) => Err(CapError::NotEnforced(format!("{bytes} bytes were given where {} are the cap", cap.bytes))),
        Err(_) if refused => Ok(()),
        Err(why) => Err(CapError::NotEnforced(format!(
            "{bytes} bytes were neither given nor refused, it could not be tried ({why})"
        ))),
    }
}

/// Resident bytes of this process.
fn resident() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/self/statm").map_err(|e| format!("/proc/self/statm: {e}"))?;
    let pages: Option<u64> = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    // SAFETY: asks for a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages
        .map(|n| n * page.unsigned_abs())
        .ok_or_else(|| format!("/proc/self/statm: expected numbers, found \"{text}\""))
}
