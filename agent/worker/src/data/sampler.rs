//! Which samples make up a batch.

use fleet_common::spec::Sampling;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::nn::Seed;

/// Draws the samples of each training step; a function of the seed alone.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    samples: usize,
    batch: usize,
    seed: Seed,
}

impl Sampler {
    /// A sampler over `samples` images, `batch` per step.
    pub fn new(sampling: Sampling, samples: usize, batch: usize, seed: Seed) -> Self {
        Self { sampling, samples, batch, seed: seed.named("sampling") }
    }

    /// The images of step `step`, from 0.
    pub fn step(&self, step: u64) -> Vec<usize> {
        match self.sampling {
            Sampling::Replacement => {
                let mut rng = generator(self.seed.branch(step));
                (0..self.batch).map(|_| rng.random_range(0..self.samples)).collect()
            }
            Sampling::Shuffle => {
                // Step s takes places s·batch … of the endless row of shuffled epochs.
                let mut picked = Vec::with_capacity(self.batch);
                let mut place = step * self.batch as u64;
                while picked.len() < self.batch {
                    let (epoch, first) = (place / self.samples as u64, (place % self.samples as u64) as usize);
                    let mut order: Vec<usize> = (0..self.samples).collect();
                    order.shuffle(&mut generator(self.seed.branch(epoch)));
                    let take = (self.batch - picked.len()).min(self.samples - first);
                    picked.extend_from_slice(&order[first..first + take]);
                    place += take as u64;
                }
                picked
            }
        }
    }
}

/// The batches of an evaluation: `samples` images, or `limit` of them spread evenly, so that a set sorted by class is
/// still represented.
pub fn evaluation_batches(samples: usize, limit: Option<usize>, batch: usize) -> Vec<Vec<usize>> {
    let n = limit.map_or(samples, |limit| limit.min(samples));
    let chosen: Vec<usize> = (0..n).map(|i| (i as u128 * samples as u128 / n as u128) as usize).collect();
    chosen.chunks(batch).map(<[usize]>::to_vec).collect()
}

/// ChaCha8, whose stream is the same on every platform and in every version.
pub(super) fn generator(seed: Seed) -> impl Rng {
    ChaCha8Rng::seed_from_u64(seed.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling, samples: usize, batch: usize) -> Sampler {
        Sampler::new(sampling, samples, batch, Seed::root(7))
    }

    #[test]
    fn a_shuffled_epoch_holds_every_sample_once_and_epochs_differ() {
        let s = sampler(Sampling::Shuffle, 10, 4);
        let row: Vec<usize> = (0..5).flat_map(|step| s.step(step)).collect();
        assert_eq!(row.len(), 20);
        for epoch in row.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(row[..10], row[10..]);
        assert_eq!(s.step(3), s.step(3), "a step can be drawn again, whatever came between");
    }

    #[test]
    fn draws_with_replacement_are_uniform_and_repeatable() {
        let s = sampler(Sampling::Replacement, 10, 100);
        let mut counts = [0u32; 10];
        for step in 0..100 {
            for i in s.step(step) {
                counts[i] += 1;
            }
        }
        // 10,000 draws over 10 values: standard deviation 30.
        assert!(counts.iter().all(|&c| (850..1150).contains(&c)), "{counts:?}");
        assert_ne!(s.step(0), s.step(1));
        assert_eq!(s.step(5), sampler(Sampling::Replacement, 10, 100).step(5));
    }

    #[test]
    fn a_limited_evaluation_spreads_over_the_whole_set() {
        assert_eq!(evaluation_batches(10, None, 4), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
        assert_eq!(evaluation_batches(100, Some(5), 64), [vec![0, 20, 40, 60, 80]]);
        assert_eq!(evaluation_batches(3, Some(5), 64), [vec![0, 1, 2]]);
    }
}
