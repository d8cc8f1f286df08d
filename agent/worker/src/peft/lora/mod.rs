//! LoRA (Hu et al., arXiv 2106.09685), as HF PEFT does it: y = W·x + b + s·B·A·dropout(x), A Kaiming-uniform, B zero,
//! s = α/r, or α/√r with rank stabilisation (arXiv 2312.03732).
//!
//! The frozen model's parameters do not train; the head does.

use fleet_common::plan::LoraSettings;
use fleet_common::spec::is_target;
use tch::Tensor;

use super::Method;
use crate::nn::{Adapter, Builder, Ctx, Init, Params};
use crate::torch::GradMode;

pub(super) struct Lora {
    rank: i64,
    scale: f64,
    dropout: f64,
    targets: Vec<String>,
}

impl Lora {
    pub(super) fn new(settings: &LoraSettings) -> Self {
        let rank = f64::from(settings.rank);
        let scale = settings.alpha / if settings.rslora { rank.sqrt() } else { rank };
        let LoraSettings { dropout, targets, .. } = settings.clone();
        Self { rank: i64::from(settings.rank), scale, dropout, targets }
    }
}

impl Method for Lora {
    fn trains(&self, _name: &str) -> bool {
        false
    }

    fn adapter(&self, b: &Builder, inputs: i64, outputs: i64) -> Option<Box<dyn Adapter>> {
        if !self.targets.iter().any(|target| is_target(target, b.path())) {
            return None;
        }
        check_rank(b, "LoRA rank", self.rank, inputs, outputs);
        // Kaiming-uniform with a = √5 over fan-in `inputs`: U(±1/√inputs).
        let down = b.param("lora_A.weight", &[self.rank, inputs], Init::Uniform { fan_in: inputs });
        let up = b.param("lora_B.weight", &[outputs, self.rank], Init::Constant(0.0));
        Some(Box::new(LoraAdapter { down, up, scale: self.scale, dropout: self.dropout }))
    }

    fn targets(&self) -> &[String] {
        &self.targets
    }

    fn update(&self, params: &Params, layer: &str) -> Option<Tensor> {
        let _off = GradMode::off();
        let factor = |name: &str| params.get(&format!("{layer}.{name}.weight")).map(|p| &p.tensor);
        Some(factor("lora_B")?.matmul(factor("lora_A")?) * self.scale)
    }
}

/// Notes a problem where a layer has fewer ranks than its adapter would.
pub(super) fn check_rank(b: &Builder, what: &str, rank: i64, inputs: i64, outputs: i64) {
    if rank > inputs.min(outputs) {
        b.problem(format!(
            "{what} {rank} is larger than the layer {} ({outputs} × {inputs}) has ranks; at most {}",
            b.path(),
            inputs.min(outputs)
        ));
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
        // Scaled where it is small: (batch, …, rank).
        let update = dropped(x, self.dropout, ctx).linear(&ctx.low(&self.down), none) * self.scale;
        base + update.linear(&ctx.low(&self.up), none)
    }

    fn draws(&self) -> bool {
        self.dropout > 0.0
    }
}

/// `x` with dropout in training.
pub(super) fn dropped(x: &Tensor, probability: f64, ctx: &Ctx) -> Tensor {
    if ctx.train && probability > 0.0 { x.dropout(probability, true) } else { x.shallow_clone() }
}
