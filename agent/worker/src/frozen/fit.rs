//! How many images go through a model at once: as many as were asked for, or as fit the budget.

use crate::torch::memory::Memory;

/// That many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit(pub u32);

/// Tries `wanted` images, and half as many whenever the allocator refuses, down to one.
///
/// # Errors
/// What `attempt` gives for another reason than memory, or for a single image.
pub fn fitting<E: std::fmt::Display>(
    memory: Memory,
    wanted: u32,
    attempt: impl Fn(i64) -> Result<(), E>,
) -> Result<Fit, E> {
    let mut images = wanted.max(1);
    loop {
        // A single image's refusal is the trial's.
        if images == 1 {
            return attempt(1).map(|()| Fit(1));
        }
        match memory.watch(|| attempt(i64::from(images))) {
            (Ok(()), _) => return Ok(Fit(images)),
            (Err(why), true) => tracing::info!("{images} images at once are too many ({why}); trying half of them"),
            (Err(why), false) => return Err(why),
        }
        images = images.div_ceil(2);
    }
}
