//! A linear layer on frozen features, as DINOv2's authors train it (Oquab et al., arXiv 2304.07193, and its public code):
//! one per learning rate of a grid, all at once on the same batches, by SGD with momentum and a cosine schedule. Which
//! one counts is decided by a part of the training images that none of them was trained on; test images decide nothing.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::nn::Seed;
use crate::torch::sgd::{Sgd, SgdConfig};
use crate::torch::{GradMode, TorchError, grad};

/// How a probe is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// Learning rates that are tried, per 256 images of a batch.
    pub rates: Vec<f64>,
    /// Images per step.
    pub batch: i64,
    /// Steps.
    pub steps: u32,
    /// Share of each class's training images that decides between the rates.
    pub held_back: f64,
}

impl Default for ProbeConfig {
    /// DINOv2's thirteen rates and its length, in batches of 128.
    fn default() -> Self {
        let rates = vec![1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1];
        Self { rates, batch: 128, steps: 12_500, held_back: 0.1 }
    }
}

/// A trained probe.
#[derive(Debug)]
pub struct Probe {
    /// (classes, width).
    weight: Tensor,
    /// (classes).
    bias: Tensor,
    /// The learning rate that was chosen.
    pub rate: f64,
    /// Its share of right answers among the images that were held back.
    pub held_back_accuracy: f64,
}

/// Which images train and which decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halves {
    /// Indices that train.
    pub train: Vec<i64>,
    /// Indices that decide.
    pub decide: Vec<i64>,
}

/// Holds back `share` of each class's images, at least one where it has two; which ones follows from the seed.
pub fn halves(labels: &[i64], share: f64, seed: Seed) -> Halves {
    let mut by_class: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (index, label) in (0..).zip(labels) {
        by_class.entry(*label).or_default().push(index);
    }
    let (mut train, mut decide) = (Vec::new(), Vec::new());
    for (label, mut indices) in by_class {
        // In an order that is its own for each class.
        indices.sort_by_key(|index| seed.branch(label as u64).branch(*index as u64).get());
        let most = indices.len().saturating_sub(1);
        let back = ((indices.len() as f64 * share).round() as usize).max(1).min(most);
        decide.extend(&indices[..back]);
        train.extend(&indices[back..]);
    }
    train.sort_unstable();
    decide.sort_unstable();
    Halves { train, decide }
}

impl Probe {
    /// Trains on features (n, width) with labels (n) below `classes`; `tell` hears of each step that is done, and says
    /// whether to go on. `None` if not.
    ///
    /// # Errors
    /// A failure inside libtorch.
    pub fn train(
        features: &Tensor,
        labels: &Tensor,
        classes: i64,
        config: &ProbeConfig,
        seed: Seed,
        tell: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Option<Self>, TorchError> {
        let device = features.device();
        let list: Vec<i64> = (0..labels.size()[0]).map(|i| labels.int64_value(&[i])).collect();
        let Halves { train, decide } = halves(&list, config.held_back, seed);
        let (width, rates) = (features.size()[1], config.rates.len() as i64);
        let features = features.to_kind(Kind::Float);
        seed.named("probe").apply();
        let fresh = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, device)) * 0.01;
        // All probes start alike, so that only their rates tell them apart.
        let weight = fresh(&[1, classes, width]).repeat([rates, 1, 1]).set_requires_grad(true);
        let bias = Tensor::zeros([rates, classes], (Kind::Float, device)).set_requires_grad(true);
        let scale: Vec<f32> = config.rates.iter().map(|rate| (rate * config.batch as f64 / 256.0) as f32).collect();
        let scale = Tensor::from_slice(&scale).to_device(device);
        let momentum = SgdConfig { momentum: 0.9, weight_decay: 0.0 };
        let mut sgd = Sgd::new(vec![weight.shallow_clone(), bias.shallow_clone()], momentum);
        let rows = Tensor::from_slice(&train).to_device(device);
        for step in 0..config.steps {
            seed.named("batch").branch(u64::from(step)).apply();
            let drawn =
                rows.index_select(0, &Tensor::randint(train.len() as i64, [config.batch], (Kind::Int64, device)));
            let (x, y) = (features.index_select(0, &drawn), labels.index_select(0, &drawn));
            let logits = logits(&weight, &bias, &x); // (rates, batch, classes)
            let y = y.unsqueeze(0).expand([rates, -1], false).reshape([-1]);
            // A sum over probes, because they share nothing: each sees the mean over its own batch.
            let loss = logits.reshape([-1, classes]).cross_entropy_for_logits(&y) * rates as f64;
            let grads = grad(&[&loss], &[None], &[&weight, &bias])?;
            // Each probe's rate is in its gradient, the schedule in the step.
            let of = |shape: &[i64]| scale.view(shape);
            let shapes: [&[i64]; 2] = [&[-1, 1, 1], &[-1, 1]];
            let grads: Vec<_> = grads.into_iter().zip(shapes).map(|(g, shape)| g.map(|g| g * of(shape))).collect();
            sgd.step(&grads, cosine(step, config.steps))?;
            if !tell(step + 1) {
                return Ok(None);
            }
        }
        let _off = GradMode::off();
        let chosen = Tensor::from_slice(&decide).to_device(device);
        let (x, y) = (features.index_select(0, &chosen), labels.index_select(0, &chosen));
        let guesses = logits(&weight, &bias, &x).argmax(-1, false); // (rates, n)
        let right = guesses.eq_tensor(&y.unsqueeze(0)).sum_dim_intlist([1].as_slice(), false, Kind::Float);
        // Of equally good ones the slowest: it is the least likely to have been lucky.
        let best = right.argmax(0, false).int64_value(&[]);
        Ok(Some(Self {
            weight: weight.detach().select(0, best).copy(),
            bias: bias.detach().select(0, best).copy(),
            rate: config.rates[best as usize],
            held_back_accuracy: right.double_value(&[best]) / decide.len().max(1) as f64,
        }))
    }

    /// Logits (n, classes) of features (n, width).
    pub fn forward(&self, features: &Tensor) -> Tensor {
        features.to_kind(Kind::Float).linear(&self.weight, Some(&self.bias))
    }

    /// How many numbers it has.
    pub fn parameters(&self) -> u64 {
        (self.weight.numel() + self.bias.numel()) as u64
    }

    /// Multiply-accumulates for one image.
    pub fn macs(&self) -> u64 {
        self.weight.numel() as u64
    }

    /// Where its tensors are.
    pub fn device(&self) -> Device {
        self.weight.device()
    }
}

/// (rates, n, classes).
fn logits(weight: &Tensor, bias: &Tensor, x: &Tensor) -> Tensor {
    x.unsqueeze(0).matmul(&weight.transpose(1, 2)) + bias.unsqueeze(1)
}

/// From 1 to 0.
fn cosine(step: u32, steps: u32) -> f64 {
    (1.0 + (std::f64::consts::PI * f64::from(step) / f64::from(steps.max(1))).cos()) / 2.0
}
