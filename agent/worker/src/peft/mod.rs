//! Fine-tuning methods: one folder each, one line in [`method`].
//!
//! A method says which of the model's own parameters train, what it puts beside linear layers, and whether it packs the
//! frozen ones. Models know nothing of it; the builder asks. What a method does while training goes on, it does as a
//! [`Schedule`].

mod adalora;
mod bitfit;
mod full;
pub mod layout;
mod lora;
mod qlora;

use std::collections::BTreeMap;
use std::rc::Rc;

use fleet_common::plan::MethodSettings;
use tch::Tensor;

pub use adalora::Allocator;

use crate::nn::{Adapter, Builder, Param, Params, Role};
use crate::quant::Packing;

/// A fine-tuning method.
pub trait Method {
    /// Whether the model's own parameter `name` trains. The head always does, and is not asked about.
    fn trains(&self, name: &str) -> bool;

    /// The adapter of the linear layer at `b`, if the method puts one there. Its parameters come from `b`.
    fn adapter(&self, b: &Builder, inputs: i64, outputs: i64) -> Option<Box<dyn Adapter>> {
        let _ = (b, inputs, outputs);
        None
    }

    /// Ends of the names of the layers that get an adapter; each must name one.
    fn targets(&self) -> &[String] {
        &[]
    }

    /// How the frozen weight of the linear layer at `path` is packed, if it is.
    fn packing(&self, path: &str) -> Option<Packing> {
        let _ = path;
        None
    }

    /// What the adapter of `layer` adds to the layer's weight, (outputs, inputs); `None` where it has none.
    fn update(&self, params: &Params, layer: &str) -> Option<Tensor> {
        let _ = (params, layer);
        None
    }

    /// A scalar to add to the loss, differentiable.
    fn penalty(&self, params: &Params) -> Option<Tensor> {
        let _ = params;
        None
    }

    /// What happens beside the optimiser's `steps` steps.
    fn schedule(&self, params: &Params, steps: u32) -> Option<Box<dyn Schedule>> {
        let _ = (params, steps);
        None
    }
}

/// Nothing of the model trains.
#[derive(Default)]
pub struct Frozen {
    /// How linear layers but the last are packed, if they are.
    pub packing: Option<Packing>,
}

impl Method for Frozen {
    fn trains(&self, _name: &str) -> bool {
        false
    }

    fn packing(&self, path: &str) -> Option<Packing> {
        // What chooses between tokens is left whole, as is usual with language models.
        self.packing.filter(|_| path != "lm_head")
    }
}

/// What a method does after each step of the optimiser.
pub trait Schedule {
    /// After optimiser step `step`, from 1; `grads` are those of the trainable parameters that the step was made with,
    /// in their order.
    fn after_step(&mut self, step: u32, params: &Params, grads: &[Option<Tensor>]);

    /// What has to be kept to go on from here, by name. Copying into these tensors restores a state.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Which ranks are left, by layer.
    fn pattern(&self) -> BTreeMap<String, Vec<bool>>;

    /// Ranks over all layers that may be left after `step`, and whether some are taken away then.
    fn budget(&self, step: u32) -> (i64, bool);

    /// How many ranks are left, by layer.
    fn ranks(&self) -> BTreeMap<String, u32> {
        let count = |stays: Vec<bool>| stays.into_iter().filter(|stays| *stays).count() as u32;
        self.pattern().into_iter().map(|(layer, stays)| (layer, count(stays))).collect()
    }
}

/// The method that settings name.
pub fn method(settings: &MethodSettings) -> Rc<dyn Method> {
    match settings {
        MethodSettings::Full => Rc::new(full::Full),
        MethodSettings::Lora(settings) => Rc::new(lora::Lora::new(settings)),
        MethodSettings::AdaLora(settings) => Rc::new(adalora::AdaLora::new(settings)),
        MethodSettings::QLora(settings) => Rc::new(qlora::QLora::new(settings)),
        MethodSettings::BitFit => Rc::new(bitfit::BitFit),
        MethodSettings::ZeroShot(_)
        | MethodSettings::Knn(_)
        | MethodSettings::LinearProbe(_)
        | MethodSettings::VlmPrompt(_)
        | MethodSettings::VlmScore(_) => Rc::new(Frozen::default()),
    }
}

/// The model without its adapters: every parameter and buffer by its public name, with what the adapters add to it.
/// Packed weights come out whole.
pub fn merged<'a>(params: &'a Params, method: &'a dyn Method) -> impl Iterator<Item = (String, Tensor)> + 'a {
    params.iter().filter(|p| p.role != Role::Adapter).map(move |p| (p.name.clone(), merged_values(p, params, method)))
}

fn merged_values(param: &Param, params: &Params, method: &dyn Method) -> Tensor {
    let update = param.name.strip_suffix(".weight").and_then(|layer| method.update(params, layer));
    match update {
        Some(update) => param.values() + update,
        None => param.values(),
    }
}
