//! AdaLoRA (Zhang et al., arXiv 2303.10512), as HF PEFT does it: y = W·x + b + s·B·(A∘E)·dropout(x), with a singular
//! value in E per rank, which is set to zero where the rank is taken away ([`Allocator`]).
//!
//! s = α / (r + 1e-5) with the rank that was begun with, whatever is left of it. A and B are drawn from N(0, 0.02²), E
//! is zero. The loss gets a term that keeps A and B near orthogonal.

mod allocator;

use fleet_common::plan::AdaLoraSettings;
use fleet_common::spec::is_target;
use tch::{Kind, Tensor};

pub use allocator::Allocator;

use super::lora::{check_rank, dropped};
use super::{Method, Schedule};
use crate::nn::{Adapter, Builder, Ctx, Init, Params};
use crate::torch::GradMode;

pub(super) struct AdaLora {
    settings: AdaLoraSettings,
    scale: f64,
}

impl AdaLora {
    pub(super) fn new(settings: &AdaLoraSettings) -> Self {
        Self { settings: settings.clone(), scale: settings.alpha / (f64::from(settings.init_rank) + 1e-5) }
    }
}

impl Method for AdaLora {
    fn trains(&self, _name: &str) -> bool {
        false
    }

    fn adapter(&self, b: &Builder, inputs: i64, outputs: i64) -> Option<Box<dyn Adapter>> {
        if !self.settings.targets.iter().any(|target| is_target(target, b.path())) {
            return None;
        }
        let rank = i64::from(self.settings.init_rank);
        check_rank(b, "AdaLoRA init_rank", rank, inputs, outputs);
        let normal = Init::Normal { std: 0.02 };
        Some(Box::new(SvdAdapter {
            right: b.param("lora_A", &[rank, inputs], normal),
            left: b.param("lora_B", &[outputs, rank], normal),
            values: b.param("lora_E", &[rank, 1], Init::Constant(0.0)),
            scale: self.scale,
            dropout: self.settings.dropout,
        }))
    }

    fn targets(&self) -> &[String] {
        &self.settings.targets
    }

    fn update(&self, params: &Params, layer: &str) -> Option<Tensor> {
        let _off = GradMode::off();
        let part = |name: &str| params.get(&format!("{layer}.{name}")).map(|p| &p.tensor);
        Some(part("lora_B")?.matmul(&(part("lora_A")? * part("lora_E")?)) * self.scale)
    }

    /// w · the mean over all A and B of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖ (Frobenius).
    fn penalty(&self, params: &Params) -> Option<Tensor> {
        if self.settings.orthogonal_weight == 0.0 {
            return None;
        }
        let distances = params.iter().filter_map(|p| {
            let m = &p.tensor;
            let gram = match p.name.rsplit('.').next()? {
                "lora_A" => m.matmul(&m.tr()),
                "lora_B" => m.tr().matmul(m),
                _ => return None,
            };
            let identity = Tensor::eye(gram.size()[0], (gram.kind(), gram.device()));
            Some((gram - identity).norm())
        });
        let distances: Vec<Tensor> = distances.collect();
        if distances.is_empty() {
            return None;
        }
        Some(Tensor::stack(&distances, 0).mean(Kind::Float) * self.settings.orthogonal_weight)
    }

    fn schedule(&self, params: &Params, steps: u32) -> Option<Box<dyn Schedule>> {
        Some(Box::new(Allocator::new(&self.settings, params, steps)))
    }
}

struct SvdAdapter {
    /// A of the paper's P·Λ·Q form, (rank, inputs).
    right: Tensor,
    /// B, (outputs, rank).
    left: Tensor,
    /// E, the singular values, (rank, 1).
    values: Tensor,
    scale: f64,
    dropout: f64,
}

impl Adapter for SvdAdapter {
    fn forward(&self, x: &Tensor, base: Tensor, ctx: &Ctx) -> Tensor {
        let none = None::<&Tensor>;
        let right = ctx.low(&(&self.right * &self.values));
        let update = dropped(x, self.dropout, ctx).linear(&right, none) * self.scale;
        base + update.linear(&ctx.low(&self.left), none)
    }

    fn draws(&self) -> bool {
        self.dropout > 0.0
    }
}
