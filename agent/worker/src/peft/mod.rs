//! Fine-tuning methods: one folder each, one line in [`method`].
//!
//! A method says which of the model's own parameters train, and what it puts beside linear layers. Models know
//! nothing of it; the builder asks.

mod bitfit;
mod full;
mod lora;

use std::rc::Rc;

use fleet_common::plan::MethodSettings;

use crate::nn::{Adapter, Builder};

/// A fine-tuning method.
pub trait Method {
    /// Whether the model's own parameter `name` trains. The head always does, and is not asked about.
    fn trains(&self, name: &str) -> bool;

    /// The adapter of the linear layer at `b`, if the method puts one there. Its parameters come from `b`.
    fn adapter(&self, b: &Builder, inputs: i64, outputs: i64) -> Option<Box<dyn Adapter>> {
        let _ = (b, inputs, outputs);
        None
    }
}

/// The method that settings name.
pub fn method(settings: &MethodSettings) -> Rc<dyn Method> {
    match settings {
        MethodSettings::Full => Rc::new(full::Full),
        MethodSettings::Lora { rank, alpha, dropout, targets } => {
            Rc::new(lora::Lora::new(*rank, *alpha, *dropout, targets))
        }
        MethodSettings::BitFit => Rc::new(bitfit::BitFit),
    }
}
