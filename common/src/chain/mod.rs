//! What to hold and what to pay for again, along a line of stages that is gone through there and back. The problem,
//! without domain words, and the proof of the solution are in this folder's README.
//!
//! Amounts and costs are whole numbers; nothing is rounded here, and the solution is exact.

mod solve;
#[cfg(test)]
mod tests;

pub use solve::solve;

/// A line of stages, and the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What must never be exceeded.
    pub limit: u64,
    /// In the order of the way there.
    pub stages: Vec<Stage>,
    /// What is needed at the turning point beside what is held.
    pub turn: u64,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What is there on the way there beside what is held and what the option needs.
    pub there: u64,
    /// The same on the way back.
    pub back: u64,
    /// Its options; at least one.
    pub options: Vec<Choice>,
}

/// An option of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What it costs.
    pub cost: u64,
    /// What is held from here to the way back, by the option of the stage before; one entry for the first stage.
    pub held: Vec<u64>,
    /// What it needs on the way there, beside what earlier stages hold.
    pub there: u64,
    /// What it needs on the way back, beside what earlier stages and this one hold.
    pub back: u64,
}

/// A solution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solution {
    /// The option of each stage.
    pub options: Vec<usize>,
    /// What they cost together.
    pub cost: u64,
    /// The most that is ever needed; within the limit.
    pub peak: u64,
}

/// No options stay within the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at least {least} is needed")]
pub struct Infeasible {
    /// The smallest limit that can be met.
    pub least: u64,
}

impl Problem {
    /// What `options`, one per stage, cost and need at most. By the definition, step by step: what the solver is held
    /// against.
    ///
    /// # Panics
    /// When an option does not exist.
    pub fn evaluate(&self, options: &[usize]) -> Solution {
        let (mut cost, mut held, mut peak) = (0, 0, 0);
        let mut before = 0;
        for (stage, option) in self.stages.iter().zip(options) {
            let choice = &stage.options[*option];
            peak = peak.max(stage.there + held + choice.there);
            held += choice.held[before];
            peak = peak.max(stage.back + held + choice.back);
            cost += choice.cost;
            before = *option;
        }
        Solution { options: options.to_vec(), cost, peak: peak.max(self.turn + held) }
    }

    /// The smallest limit that can be met.
    pub fn least_peak(&self) -> u64 {
        // A limit that can be met stays so when it grows, so halving finds the smallest. Everything at its largest is
        // enough.
        let most = |f: fn(&Choice) -> u64, stage: &Stage| stage.options.iter().map(f).max().unwrap_or(0);
        let held = |choice: &Choice| choice.held.iter().copied().max().unwrap_or(0);
        let sum: u64 = self.stages.iter().map(|s| most(held, s)).sum();
        let needs = |s: &Stage| (s.there + most(|c| c.there, s)).max(s.back + most(|c| c.back, s));
        let (mut low, mut high) = (0, sum + self.stages.iter().map(needs).max().unwrap_or(0).max(self.turn));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.can_meet(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// Whether some options stay within `limit`. Holding less is never worse, so the least per option of the latest
    /// stage is all that has to be known.
    fn can_meet(&self, limit: u64) -> bool {
        let mut least = vec![Some(0)];
        for stage in &self.stages {
            let of = |choice: &Choice| {
                let after = least.iter().zip(&choice.held).filter_map(|(before, held)| {
                    let before = (*before)?;
                    let fits = stage.there + before + choice.there <= limit
                        && stage.back + before + held + choice.back <= limit;
                    fits.then_some(before + held)
                });
                after.min()
            };
            least = stage.options.iter().map(of).collect();
        }
        least.into_iter().flatten().min().is_some_and(|held| self.turn + held <= limit)
    }
}
