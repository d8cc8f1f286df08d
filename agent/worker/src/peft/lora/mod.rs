//! LoRA (Hu et al., arXiv 2106.09685), as HF PEFT does it: y = W·x + b + (α/r)·B·A·dropout(x), A Kaiming-uniform, B zero.
//!
//! The frozen model's parameters do not train; the head does.

use tch::Tensor;

use super::Method;
use crate::nn::{Adapter, Builder, Ctx, Init};

pub(super) struct Lora {
    rank: i64,
    scale: f64,
    dropout: f64,
    targets: Vec<String>,
}

impl Lora {
    pub(super) fn new(rank: u32, alpha: f64, dropout: f64, targets: &[String]) -> Self {
        Self { rank: i64::from(rank), scale: alpha / f64::from(rank), dropout, targets: targets.to_vec() }
    }
}

impl Method for Lora {
    fn trains(&self, _name: &str) -> bool {
        false
    }

    fn adapter(&self, b: &Builder, inputs: i64, outputs: i64) -> Option<Box<dyn Adapter>> {
        let layer = b.path().rsplit('.').next().unwrap_or_default();
        if !self.targets.iter().any(|target| target == layer) {
            return None;
        }
        if self.rank > inputs.min(outputs) {
            b.problem(format!(
                "LoRA rank {} is larger than the layer {} ({outputs} × {inputs}) has ranks; at most {}",
                self.rank,
                b.path(),
                inputs.min(outputs)
            ));
        }
        // Kaiming-uniform with a = √5 over fan-in `inputs`: U(±1/√inputs).
        let down = b.param("lora_A.weight", &[self.rank, inputs], Init::Uniform { fan_in: inputs });
        let up = b.param("lora_B.weight", &[outputs, self.rank], Init::Constant(0.0));
        Some(Box::new(LoraAdapter { down, up, scale: self.scale, dropout: self.dropout }))
    }
}

struct LoraAdapter {
    /// A of the paper, (rank, inputs).
    down: Tensor,
    /// B of the paper, (outputs, rank).
    up: Tensor,
    scale: f64,
    dropout: f64,
}

impl Adapter for LoraAdapter {
    fn forward(&self, x: &Tensor, base: Tensor, ctx: &Ctx) -> Tensor {
        let none = None::<&Tensor>;
        let update = if ctx.train && self.dropout > 0.0 {
            x.dropout(self.dropout, true).linear(&self.down, none)
        } else {
            x.linear(&self.down, none)
        };
        base + update.linear(&self.up, none) * self.scale
    }
}
