//! Fresh values for parameters, as PyTorch's and timm's initialisers draw them.

use tch::{Device, Kind, Tensor};

use super::Seed;

/// The largest f32 below 1.
const BELOW_ONE: f64 = 1.0 - 1.0 / (1u64 << 24) as f64;

/// How a parameter starts when no weights give it a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// One value everywhere.
    Constant(f64),
    /// Zero, as a whole number: a counter.
    Count,
    /// N(0, std²).
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// N(0, std²) truncated to [-2, 2], as timm's `trunc_normal_` and PyTorch's draw it.
    TruncatedNormal {
        /// Standard deviation before truncation.
        std: f64,
    },
    /// U(-b, b) with b = 1/√fan_in: PyTorch's default for weights of linear and convolution layers (its
    /// `kaiming_uniform_` with a = √5), and for the bias of a layer with that `fan_in`.
    Uniform {
        /// Inputs per output.
        fan_in: i64,
    },
    /// N(0, 1/fan_in) truncated at two deviations and widened again to that variance, as timm's `lecun_normal_`.
    LecunNormal {
        /// Inputs per output.
        fan_in: i64,
    },
    /// ln(1), ln(2), … along the last dimension: Mamba's decay rates.
    Logarithms,
    /// What softplus turns into a log-uniform number in [0.001, 0.1]: Mamba's step widths.
    StepWidths,
}

impl Init {
    /// The values for a parameter of `shape`, a function of `seed` alone: drawn on the CPU in f32 whatever the
    /// parameter's kind and device will be.
    pub fn draw(self, shape: &[i64], seed: Seed) -> Tensor {
        let options = (Kind::Float, Device::Cpu);
        seed.apply();
        match self {
            Self::Constant(value) => Tensor::full(shape, value, options),
            Self::Count => Tensor::zeros(shape, (Kind::Int64, Device::Cpu)),
            Self::Normal { std } => Tensor::randn(shape, options) * std,
            Self::TruncatedNormal { std } => {
                // Inverse transform: uniform between the normal CDF's values at the ends, mapped back by its inverse.
                let cdf = |x: f64| 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2));
                let (low, high) = (cdf(-2.0 / std), cdf(2.0 / std));
                let u = Tensor::empty(shape, options).uniform_(2.0 * low - 1.0, 2.0 * high - 1.0);
                // Where the ends are many deviations away they round to ±1, which is drawn once in 2²⁴ values and whose
                // inverse is infinite: cut off at 2 it would be a weight of 100 deviations. (PyTorch's has such ones.)
                let mut u = u.clamp(-BELOW_ONE, BELOW_ONE);
                (u.erfinv_() * (std * std::f64::consts::SQRT_2)).clamp(-2.0, 2.0)
            }
            Self::Uniform { fan_in } => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                Tensor::empty(shape, options).uniform_(-bound, bound)
            }
            Self::LecunNormal { fan_in } => {
                // The deviation of N(0, 1) truncated at ±2.
                const TRUNCATED: f64 = 0.879_625_661_034_239_8;
                Self::TruncatedNormal { std: 1.0 }.draw(shape, seed) * ((1.0 / fan_in as f64).sqrt() / TRUNCATED)
            }
            Self::Logarithms => {
                let last = shape.last().copied().unwrap_or(1);
                Tensor::arange_start(1, last + 1, options).log().expand(shape, false).copy()
            }
            Self::StepWidths => {
                let width = Tensor::empty(shape, options).uniform_(0.001f64.ln(), 0.1f64.ln()).exp();
                // The inverse of softplus: y + ln(1 − e⁻ʸ).
                let rest = (-&width).expm1().neg().log();
                width + rest
            }
        }
    }
}

/// The error function, by libtorch: std has none.
fn erf(x: f64) -> f64 {
    Tensor::from(x).erf().double_value(&[])
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// libtorch has one generator per process, and tests are threads.
    static GENERATOR: Mutex<()> = Mutex::new(());

    #[test]
    fn moments_are_those_of_the_named_distribution() {
        let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        let n = 200_000;
        let moments = |init: Init| {
            let x = init.draw(&[n], Seed::root(1));
            let (mean, std) = (x.mean(Kind::Float).double_value(&[]), x.std(true).double_value(&[]));
            (mean, std, x.abs().max().double_value(&[]))
        };
        let near = |a: f64, b: f64, tolerance: f64| assert!((a - b).abs() < tolerance, "{a} is not near {b}");
        // Standard errors for n = 200,000: std/√n ≈ 0.0022·std for the mean, half of that relative for the deviation.
        let (mean, std, max) = moments(Init::TruncatedNormal { std: 0.02 });
        near(mean, 0.0, 2e-4);
        near(std, 0.02, 2e-4);
        assert!(max < 0.2);
        let (mean, std, max) = moments(Init::TruncatedNormal { std: 1.0 });
        near(mean, 0.0, 0.01);
        // Variance of N(0,1) truncated at ±2: 1 − 2·2·φ(2)/(Φ(2) − Φ(−2)) = 0.7737.
        near(std, 0.7737f64.sqrt(), 0.005);
        assert!(max <= 2.0);
        let (mean, std, max) = moments(Init::Uniform { fan_in: 100 });
        near(mean, 0.0, 1e-3);
        near(std, 0.1 / 3.0f64.sqrt(), 5e-4);
        assert!(max <= 0.1);
        let (mean, std, _) = moments(Init::Normal { std: 3.0 });
        near(mean, 0.0, 0.03);
        near(std, 3.0, 0.03);
    }

    #[test]
    fn the_ends_of_a_wide_truncation_are_no_values() {
        let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        // Four times as many values as there are between 0 and 1: without care some are infinite deviations away.
        for part in 0..16 {
            let x = Init::TruncatedNormal { std: 0.02 }.draw(&[1 << 22], Seed::root(part));
            let largest = x.abs().max().double_value(&[]) / 0.02;
            assert!((4.5..5.6).contains(&largest), "part {part}: {largest} deviations");
        }
    }

    #[test]
    fn values_depend_on_the_seed_alone() {
        let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        let draw = |seed| Init::Normal { std: 1.0 }.draw(&[64], Seed::root(seed));
        let first = draw(1);
        let _ = Tensor::randn([1000], tch::kind::FLOAT_CPU);
        assert!(draw(1).equal(&first));
        assert!(!draw(2).equal(&first));
    }
}
