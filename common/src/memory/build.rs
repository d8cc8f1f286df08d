//! Where a model's layers come from: which parameters train, what a method puts beside linear layers, what is packed.

use std::cell::RefCell;
use std::rc::Rc;

use super::block::Block;
use super::layers::{Adapter, Conv, Linear, Norm, Pass, Weight};
use super::tape::{SINGLE, Tape, Tensor};
use crate::plan::{CellSettings, MethodSettings};
use crate::spec::is_target;

/// Packed scales that share a scale.
const SCALE_BLOCK: u64 = 256;

/// A parameter: its values however they are packed, and whether it trains.
#[derive(Debug)]
pub(super) struct Param {
    /// Values.
    pub(super) numel: u64,
    /// Its memory; a leaf of the graph where it trains.
    pub(super) tensor: Tensor,
    /// Part of an adapter's products A and B, whose orthogonality AdaLoRA looks at.
    pub(super) is_factor: bool,
    /// Part of an adapter.
    pub(super) is_adapter: bool,
}

impl Param {
    /// Whether it trains.
    pub(super) fn trains(&self) -> bool {
        self.tensor.requires_grad()
    }
}

/// All that a model holds.
#[derive(Debug, Default)]
pub(super) struct Params {
    /// Its parameters.
    pub(super) all: Vec<Param>,
    /// Running statistics and tables of places: not trained, and no parameters.
    pub(super) buffers: Vec<Tensor>,
}

/// Hands out layers by name.
#[derive(Debug, Clone)]
pub(super) struct Builder<'a> {
    tape: Rc<Tape>,
    method: &'a MethodSettings,
    params: Rc<RefCell<Params>>,
    path: String,
    head: bool,
}

impl<'a> Builder<'a> {
    pub(super) fn new(tape: &Rc<Tape>, settings: &'a CellSettings) -> Self {
        Self { tape: tape.clone(), method: &settings.method, params: Rc::default(), path: String::new(), head: false }
    }

    /// The builder of the part called `name`.
    pub(super) fn sub(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, ..self.clone() }
    }

    /// The builder of the classification head, which trains under every method.
    pub(super) fn head(&self, name: &str) -> Self {
        Self { head: true, ..self.sub(name) }
    }

    /// What the model holds.
    pub(super) fn finish(self) -> Params {
        std::mem::take(&mut self.params.borrow_mut())
    }

    /// A parameter of the model.
    pub(super) fn param(&self, name: &str, numel: u64) -> Tensor {
        let trains = self.head
            || match self.method {
                MethodSettings::Full => true,
                // The worker's rule looks at the whole name.
                MethodSettings::BitFit => name == "bias",
                _ => false,
            };
        self.register(self.tape.single(numel), numel, trains, false, false)
    }

    fn register(&self, memory: Tensor, numel: u64, trains: bool, is_adapter: bool, is_factor: bool) -> Tensor {
        let tensor = if trains { memory.leaf().0 } else { memory };
        self.params.borrow_mut().all.push(Param { numel, tensor: tensor.clone(), is_factor, is_adapter });
        tensor
    }

    /// Numbers that belong to the model and are no parameters.
    pub(super) fn buffer(&self, numel: u64, width: u64) {
        let tensor = self.tape.tensor(numel, width);
        self.params.borrow_mut().buffers.push(tensor);
    }

    /// A block called `name`, put together by `make`; it knows which of its parameters train.
    pub(super) fn block<F>(&self, name: &str, make: impl FnOnce(&Self) -> F) -> Block
    where
        F: Fn(&[Tensor], Pass) -> Vec<Tensor> + 'static,
    {
        let b = self.sub(name);
        let first = self.params.borrow().all.len();
        let part = Rc::new(make(&b));
        let params = self.params.borrow();
        let trainable = params.all.iter().skip(first).filter(|p| p.trains()).map(|p| p.tensor.clone()).collect();
        Block { name: b.path, part, trainable }
    }

    /// A linear layer with whatever the method puts on it.
    pub(super) fn linear(&self, name: &str, inputs: u64, outputs: u64, bias: bool) -> Linear {
        let b = self.sub(name);
        let weight = match self.method {
            MethodSettings::QLora(qlora) if !self.head => {
                let bytes = packed_bytes(inputs * outputs, u64::from(qlora.block), qlora.double_quantization);
                let memory = self.tape.tensor(bytes, 1);
                Weight::Packed(b.register(memory, inputs * outputs, false, false, false))
            }
            _ => Weight::Dense(b.param("weight", inputs * outputs)),
        };
        let bias = bias.then(|| b.param("bias", outputs));
        Linear { weight, bias, adapter: b.adapter(inputs, outputs), inputs, outputs }
    }

    fn adapter(&self, inputs: u64, outputs: u64) -> Option<Adapter> {
        let is_meant = |targets: &[String]| !self.head && targets.iter().any(|t| is_target(t, &self.path));
        if !self.method.targets().is_some_and(is_meant) {
            return None;
        }
        let part = |numel: u64, is_factor| self.register(self.tape.single(numel), numel, true, true, is_factor);
        let (rank, dropout, singular) = match self.method {
            MethodSettings::Lora(lora) => (lora.rank, lora.dropout, false),
            MethodSettings::QLora(qlora) => (qlora.rank, qlora.dropout, false),
            MethodSettings::AdaLora(ada) => (ada.init_rank, ada.dropout, true),
            _ => return None,
        };
        let rank = u64::from(rank);
        Some(Adapter {
            down: part(rank * inputs, true),
            up: part(outputs * rank, true),
            values: singular.then(|| part(rank, false)),
            rank,
            outputs,
            drops: dropout > 0.0,
        })
    }

    /// A layer norm over `width` values.
    pub(super) fn layer_norm(&self, name: &str, width: u64) -> Norm {
        let b = self.sub(name);
        Norm { weight: b.param("weight", width), bias: b.param("bias", width) }
    }

    /// A batch norm over `channels`, with its running statistics.
    pub(super) fn batch_norm(&self, name: &str, channels: u64) -> Norm {
        let norm = self.layer_norm(name, channels);
        self.buffer(channels, SINGLE);
        self.buffer(channels, SINGLE);
        self.buffer(1, 8);
        norm
    }

    /// A square convolution.
    pub(super) fn conv(&self, name: &str, kernel: u64, inputs: u64, outputs: u64, groups: u64, bias: bool) -> Conv {
        let b = self.sub(name);
        Conv {
            weight: b.param("weight", outputs * inputs / groups * kernel * kernel),
            bias: bias.then(|| b.param("bias", outputs)),
            outputs,
        }
    }
}

/// Bytes of `numel` 4-bit codes with their scales, one per `block`.
fn packed_bytes(numel: u64, block: u64, double: bool) -> u64 {
    let scales = numel.div_ceil(block.max(1));
    let codes = numel.div_ceil(2);
    if double { codes + scales + (scales.div_ceil(SCALE_BLOCK) + 1) * SINGLE } else { codes + scales * SINGLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_take_half_a_byte_and_their_scales() {
        assert_eq!(packed_bytes(128 * 128, 64, false), 8192 + 256 * 4);
        assert_eq!(packed_bytes(128 * 128, 64, true), 8192 + 256 + 2 * 4);
        assert_eq!(packed_bytes(3, 64, false), 2 + 4);
    }
}
