//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) over state that we own.
//!
//! The arithmetic is libtorch's fused kernel: one pass, no temporaries. The state is ours, because resuming bit for
//! bit needs it and tch's optimisers do not give it out.

use tch::{Kind, Tensor};

use super::{GradMode, TorchError, check, ffi, raw_all};

/// Hyper-parameters of AdamW, PyTorch's defaults except where the protocol says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, times the learning rate each step.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.05 }
    }
}

/// The optimiser and its state: per parameter the first and second moment, and a step count.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Tensor>,
    means: Vec<Tensor>,
    squares: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl AdamW {
    /// An optimiser for `params` with zero moments.
    pub fn new(params: Vec<Tensor>, config: AdamWConfig) -> Self {
        let zeros = |p: &Tensor| p.zeros_like();
        let step = |p: &Tensor| Tensor::zeros([], (Kind::Float, p.device()));
        let _no_grad = GradMode::off();
        Self {
            config,
            means: params.iter().map(zeros).collect(),
            squares: params.iter().map(zeros).collect(),
            steps: params.iter().map(step).collect(),
            params,
        }
    }

    /// The state of each parameter, in their order: first moment, second moment, step count. Copying into these tensors
    /// restores a state.
    pub fn state(&self) -> impl Iterator<Item = [&Tensor; 3]> {
        self.means.iter().zip(&self.squares).zip(&self.steps).map(|((m, s), t)| [m, s, t])
    }

    /// One step at learning rate `lr` with `grads[i]` for parameter `i`. A parameter without a gradient stays as it is,
    /// its moments and step count too, as in PyTorch.
    ///
    /// # Errors
    /// A failure inside libtorch.
    pub fn step(&mut self, grads: &[Option<Tensor>], lr: f64) -> Result<(), TorchError> {
        assert_eq!(grads.len(), self.params.len(), "one gradient, or none, per parameter");
        let _no_grad = GradMode::off();
        let chosen: Vec<usize> = (0..grads.len()).filter(|&i| grads[i].is_some()).collect();
        if chosen.is_empty() {
            return Ok(());
        }
        for &i in &chosen {
            let _ = self.steps[i].g_add_scalar_(1.0);
        }
        let handles = |from: &[Tensor]| raw_all(chosen.iter().map(|&i| &from[i]));
        let grads = raw_all(grads.iter().flatten());
        let params = handles(&self.params);
        let (means, squares, steps) = (handles(&self.means), handles(&self.squares), handles(&self.steps));
        let c = self.config;
        // SAFETY: all arrays have the same length and live through the call.
        check(unsafe {
            ffi::fleet_adamw_step(
                params.as_ptr(),
                grads.as_ptr(),
                means.as_ptr(),
                squares.as_ptr(),
                steps.as_ptr(),
                params.len() as i64,
                lr,
                c.beta1,
                c.beta2,
                c.weight_decay,
                c.eps,
            )
        })
    }
}
