//! Stochastic depth (Huang et al., arXiv 1603.09382), as timm's `DropPath`.

use tch::{Kind, Tensor};

use super::Ctx;

/// Leaves out a residual branch for some samples of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropPath {
    /// Probability that a sample goes without the branch, in [0, 1).
    pub rate: f64,
}

impl DropPath {
    /// The rates of `count` blocks, rising linearly from 0 to `rate`.
    pub fn rising(rate: f64, count: usize) -> Vec<Self> {
        let last = count.saturating_sub(1).max(1) as f64;
        (0..count).map(|i| Self { rate: rate * i as f64 / last }).collect()
    }

    /// In training `x` (batch, …) is zero for some samples, and scaled up for the others so that its mean stays.
    pub fn forward(self, x: Tensor, ctx: &Ctx) -> Tensor {
        if !ctx.train || self.rate == 0.0 {
            return x;
        }
        let keep = 1.0 - self.rate;
        let mut shape = vec![1; x.dim()];
        shape[0] = x.size()[0];
        let mask = Tensor::empty(&shape, (Kind::Float, x.device())).bernoulli_float_(keep) / keep;
        let mask = mask.to_kind(x.kind());
        x * mask
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::nn::Seed;

    #[test]
    fn branches_are_left_out_per_sample_and_the_mean_stays() {
        let x = Tensor::ones([4000, 3], (Kind::Float, Device::Cpu));
        let ctx = Ctx::train(Seed::root(1));
        let y = DropPath { rate: 0.25 }.forward(x.shallow_clone(), &ctx);
        let sums = Vec::<f32>::try_from(y.sum_dim_intlist([1].as_slice(), false, Kind::Float)).expect("floats");
        assert!(sums.iter().all(|s| *s == 0.0 || (*s - 4.0).abs() < 1e-5), "a sample is in or out as a whole");
        // Standard error of the share: √(0.25·0.75/4000) ≈ 0.007.
        let out = sums.iter().filter(|s| **s == 0.0).count() as f64 / 4000.0;
        assert!((out - 0.25).abs() < 0.03, "{out}");
        assert!(DropPath { rate: 0.25 }.forward(x.shallow_clone(), &Ctx::eval()).equal(&x));
        let rates: Vec<f64> = DropPath::rising(0.2, 5).iter().map(|d| d.rate).collect();
        assert!(rates.iter().zip([0.0, 0.05, 0.1, 0.15, 0.2]).all(|(a, b)| (a - b).abs() < 1e-12), "{rates:?}");
    }
}
