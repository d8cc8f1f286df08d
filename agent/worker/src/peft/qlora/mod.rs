//! QLoRA (Dettmers et al., arXiv 2305.14314): the model's linear layers but the head are frozen in 4 bits, with or
//! without an adapter; LoRA beside those that the targets name.

use fleet_common::plan::QLoraSettings;
use tch::Tensor;

use super::Method;
use super::lora::Lora;
use crate::nn::{Adapter, Builder, Params};
use crate::quant::Packing;

pub(super) struct QLora {
    lora: Lora,
    packing: Packing,
}

impl QLora {
    pub(super) fn new(settings: &QLoraSettings) -> Self {
        let packing = Packing { block: i64::from(settings.block), double: settings.double_quantization };
        Self { lora: Lora::new(&settings.lora()), packing }
    }
}

impl Method for QLora {
    fn trains(&self, name: &str) -> bool {
        self.lora.trains(name)
    }

    fn adapter(&self, b: &Builder, inputs: i64, outputs: i64) -> Option<Box<dyn Adapter>> {
        self.lora.adapter(b, inputs, outputs)
    }

    fn targets(&self) -> &[String] {
        self.lora.targets()
    }

    fn packing(&self, _path: &str) -> Option<Packing> {
        Some(self.packing)
    }

    fn update(&self, params: &Params, layer: &str) -> Option<Tensor> {
        self.lora.update(params, layer)
    }
}
