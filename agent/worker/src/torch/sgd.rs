//! SGD with momentum, as PyTorch defines it. Trials train with AdamW; references exist for both.

use tch::Tensor;

use super::{GradMode, TorchError, guard};

/// Hyper-parameters of SGD.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// Share of the previous step's direction that is kept.
    pub momentum: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

/// The optimiser and its state: per parameter the direction of its latest step.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    params: Vec<Tensor>,
    directions: Vec<Option<Tensor>>,
}

impl Sgd {
    /// An optimiser for `params` at rest.
    pub fn new(params: Vec<Tensor>, config: SgdConfig) -> Self {
        let directions = params.iter().map(|_| None).collect();
        Self { config, params, directions }
    }

    /// One step at learning rate `lr`: d = g + λ·w, v = μ·v + d (d at first), w = w − lr·v.
    ///
    /// # Errors
    /// A failure inside libtorch.
    pub fn step(&mut self, grads: &[Option<Tensor>], lr: f64) -> Result<(), TorchError> {
        let _off = GradMode::off();
        let SgdConfig { momentum, weight_decay } = self.config;
        let all = self.params.iter().zip(&mut self.directions).zip(grads);
        guard(|| {
            for ((param, direction), grad) in all {
                let Some(grad) = grad else { continue };
                let step = grad + param * weight_decay;
                let step = match direction.take() {
                    Some(before) => before * momentum + step,
                    None => step,
                };
                let _ = param.shallow_clone().g_sub_(&(&step * lr));
                *direction = Some(step);
            }
        })
    }
}
