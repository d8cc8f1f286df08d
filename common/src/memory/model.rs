//! A backbone in three parts: what is in front of the blocks, the blocks, and what is behind them.

use super::block::Block;
use super::build::Builder;
use super::layers::Pass;
use super::tape::Tensor;
use super::{mamba_vision, tiny_vit, vim, vit};
use crate::plan::CellSettings;
use crate::spec::Backbone;

/// What is in front of the blocks, as a function.
type Before = Box<dyn Fn(&Tensor, Pass) -> Vec<Tensor>>;
/// What is behind them.
type After = Box<dyn Fn(Vec<Tensor>, Pass) -> Tensor>;

/// A backbone with its classification head.
pub(super) struct Model {
    /// From images to what the first block takes.
    pub(super) before: Before,
    /// What a strategy decides about.
    pub(super) blocks: Vec<Block>,
    /// From what the last block gives to logits.
    pub(super) after: After,
}

/// The model that settings name.
pub(super) fn model(b: &Builder<'_>, settings: &CellSettings) -> Model {
    let (side, classes) = (u64::from(settings.image_size), u64::from(settings.dataset.classes));
    match settings.backbone {
        Backbone::VitMicro | Backbone::VitTinyPatch16 | Backbone::VitSmallPatch16 => {
            vit::model(b, settings.backbone, side, classes)
        }
        Backbone::TinyVit5m | Backbone::TinyVit11m | Backbone::TinyVit21m => {
            tiny_vit::model(b, settings.backbone, side, classes)
        }
        Backbone::VimTiny | Backbone::VimSmall => vim::model(b, settings.backbone, side, classes),
        Backbone::MambaVisionT => mamba_vision::model(b, side, classes),
        Backbone::Foundation(_) => unreachable!("a training step of a model that is not trained"),
    }
}
