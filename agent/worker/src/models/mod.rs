//! Architectures, one file each. They know nothing of methods, checkpointing policies, devices or files.

mod attention;
pub mod clip;
pub mod config;
pub mod decoder;
pub mod dinov2;
pub(crate) mod mamba;
pub mod mamba_vision;
pub mod mobilevlm;
pub mod paligemma;
pub mod siglip;
pub mod smolvlm;
pub mod tiny_vit;
mod tower;
mod transformer;
pub mod vim;
pub mod vit;
pub mod vlm;

use fleet_common::spec::Backbone;
use mamba_vision::{MambaVision, MambaVisionConfig};
use tch::{Kind, Tensor};
use tiny_vit::{TinyVit, TinyVitConfig};
pub use tower::normalised;
use vim::{Vim, VimConfig};
use vit::{Vit, VitConfig};

use crate::nn::{Builder, Ctx, Executor, MacCounter, Slot};
use crate::torch::GradMode;

/// A backbone with its classification head.
pub trait Model {
    /// Logits (batch, classes) of `images` (batch, 3, size, size), normalised as the weights expect.
    fn forward(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor;

    /// The image as the first layers cut it up, before anything is added; its shape is the architecture's.
    fn patches(&self, images: &Tensor, ctx: &Ctx) -> Tensor;

    /// What the head reads, before pooling; its shape is the architecture's.
    fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor;

    /// The blocks that the executor runs.
    fn blocks(&self) -> &[Slot];
}

/// Builds a backbone by name for square inputs of `image_size` pixels, with a head of `classes`; `None` for one that is not
/// trained.
pub fn build(backbone: Backbone, image_size: u32, classes: i64, b: &Builder) -> Option<Box<dyn Model>> {
    let vit =
        |config: VitConfig| -> Box<dyn Model> { Box::new(Vit::new(b, &config.with_image_size(image_size.into()))) };
    Some(match backbone {
        Backbone::VitMicro => vit(VitConfig::micro(classes)),
        Backbone::VitTinyPatch16 => vit(VitConfig::tiny_patch16_224(classes)),
        Backbone::VitSmallPatch16 => vit(VitConfig::small_patch16_224(classes)),
        // Windows cover a map of any size, so that the model does not depend on the input's.
        Backbone::TinyVit5m | Backbone::TinyVit11m | Backbone::TinyVit21m => {
            Box::new(TinyVit::new(b, &TinyVitConfig::preset(backbone, classes)))
        }
        Backbone::VimTiny | Backbone::VimSmall => {
            Box::new(Vim::new(b, &VimConfig::preset(backbone, classes).with_image_size(image_size.into())))
        }
        Backbone::MambaVisionT => {
            Box::new(MambaVision::new(b, &MambaVisionConfig::tiny(classes).with_image_size(image_size.into())))
        }
        Backbone::Foundation(_) => return None,
    })
}

/// The classifier (classes, embedding) that a model of images and texts makes of texts' embeddings (classes, templates,
/// embedding): per class the mean of its normalised embeddings, normalised again (Radford et al., arXiv 2103.00020).
pub fn zero_shot_classifier(texts: &Tensor) -> Tensor {
    normalised(&normalised(texts).mean_dim(1, false, Kind::Float))
}

/// Multiply-accumulates of one forward pass of one image, counted by running one.
pub fn count_macs(model: &dyn Model, image: &Tensor, executor: &dyn Executor) -> u64 {
    let _off = GradMode::off();
    let macs = MacCounter::default();
    let _ = model.forward(image, &Ctx { macs: Some(&macs), ..Ctx::eval() }, executor);
    macs.total()
}
