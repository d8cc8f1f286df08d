//! What a forward pass needs to know besides its tensors.

use std::sync::atomic::{AtomicU64, Ordering};

use fleet_common::spec::Precision;
use tch::{Kind, Tensor};

/// A place in the tree of all randomness of a trial: (seed, step, micro-batch, block).
///
/// Whoever draws random numbers reseeds libtorch from here first. So running a block again gives the same dropout,
/// a resumed trial goes on with the same numbers, and nothing depends on the number of threads; no generator state
/// has to be saved or restored, which tch could not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed(u64);

impl Seed {
    /// The root of a trial.
    pub const fn root(seed: u64) -> Self {
        Self(seed)
    }

    /// The branch `label` of this place. splitmix64's finaliser (Steele et al., OOPSLA 2014) keeps branches apart.
    pub const fn branch(self, label: u64) -> Self {
        let mut z = self.0.rotate_left(17) ^ label.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self(z ^ (z >> 31))
    }

    /// The branch named by a text.
    pub fn named(self, name: &str) -> Self {
        name.bytes().fold(self.branch(name.len() as u64), |seed, byte| seed.branch(u64::from(byte)))
    }

    /// The number itself, to seed a generator with.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Seeds libtorch's generators from here.
    pub fn apply(self) {
        tch::manual_seed(self.0 as i64);
    }
}

/// Adds up the multiply-accumulates of a forward pass: matrix products, convolutions and attention. Biases, norms,
/// softmax and element-wise operations are not counted, adapters neither (deployed, they are merged).
#[derive(Debug, Default)]
pub struct MacCounter(AtomicU64);

impl MacCounter {
    /// Adds `n`.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n.unsigned_abs(), Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a forward pass needs to know besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Ctx<'a> {
    /// Training: dropout is on, statistics move.
    pub train: bool,
    /// This forward runs again for backward's sake: statistics must not move a second time.
    pub recomputing: bool,
    /// Somebody reads what comes out. Where a block or part runs again, only its gradients are wanted, and the last
    /// product of it need not be computed.
    pub values: bool,
    /// Parts that are cheap to run again keep only their inputs.
    pub cheap: bool,
    /// Randomness of this pass, or of the block at work.
    pub seed: Seed,
    /// In what matrix products, convolutions and attention compute.
    pub precision: Precision,
    /// Where to count multiply-accumulates, if anybody wants to know.
    pub macs: Option<&'a MacCounter>,
}

impl<'a> Ctx<'a> {
    /// For classifying: no dropout, nothing moves.
    pub const fn eval() -> Self {
        Self {
            train: false,
            recomputing: false,
            values: true,
            cheap: false,
            seed: Seed::root(0),
            precision: Precision::Fp32,
            macs: None,
        }
    }

    /// For one training pass with randomness from `seed`.
    pub const fn train(seed: Seed) -> Self {
        Self { train: true, ..Self::eval() }.with_seed(seed)
    }

    /// The same with randomness from `seed`.
    pub const fn with_seed(self, seed: Seed) -> Self {
        Self { seed, ..self }
    }

    /// The same in another precision.
    pub const fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// `x` as large products take it: cast down where the precision says so.
    pub fn low(&self, x: &Tensor) -> Tensor {
        match self.precision {
            Precision::Fp32 => x.shallow_clone(),
            Precision::Bf16 => x.to_kind(Kind::BFloat16),
        }
    }

    /// Counts `n` multiply-accumulates.
    pub fn count(&self, n: i64) {
        if let Some(macs) = self.macs {
            macs.add(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_differ_and_repeat() {
        let root = Seed::root(42);
        let mut seen = std::collections::HashSet::new();
        for step in 0..50 {
            for micro in 0..4 {
                for block in 0..12 {
                    assert!(seen.insert(root.branch(step).branch(micro).branch(block)), "{step} {micro} {block}");
                }
            }
        }
        assert!(seen.insert(root.named("head.weight")) && seen.insert(root.named("head.bias")));
        assert_eq!(root.branch(3).branch(1), Seed::root(42).branch(3).branch(1));
        assert_ne!(root.branch(3), Seed::root(43).branch(3));
    }
}
