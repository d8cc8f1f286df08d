//! A model's parameters by name.

use tch::{Kind, Tensor};

use crate::quant::Nf4;

/// What a parameter is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pretrained model.
    Base,
    /// The classification head, which starts fresh when the number of classes changes and trains under every method.
    Head,
    /// What a fine-tuning method added.
    Adapter,
    /// No parameter, but part of the model's state: running statistics.
    Buffer,
}

/// A named parameter.
#[derive(Debug)]
pub struct Param {
    /// Its key in public checkpoints.
    pub name: String,
    /// Its values; of a packed parameter the codes.
    pub tensor: Tensor,
    /// How it is packed, if it is.
    pub packed: Option<Nf4>,
    /// What it is part of.
    pub role: Role,
    /// Whether it trains.
    pub trains: bool,
}

impl Param {
    /// Number of values, however they are packed.
    pub fn count(&self) -> u64 {
        self.packed.as_ref().map_or_else(|| self.tensor.numel(), Nf4::count) as u64
    }

    /// Its shape, however it is packed.
    pub fn shape(&self) -> Vec<i64> {
        self.packed.as_ref().map_or_else(|| self.tensor.size(), |p| p.shape().to_vec())
    }

    /// Its values, unpacked where it is packed, apart from any graph.
    pub fn values(&self) -> Tensor {
        self.packed.as_ref().map_or_else(|| self.tensor.detach(), |p| p.dequantize(Kind::Float))
    }
}

/// All parameters of a model, in the order in which it asked for them.
#[derive(Debug, Default)]
pub struct Params(Vec<Param>);

impl Params {
    pub(super) fn push(&mut self, param: Param) {
        self.0.push(param);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.0.iter()
    }

    /// Those that train.
    pub fn trainable(&self) -> impl Iterator<Item = &Param> {
        self.0.iter().filter(|p| p.trains)
    }

    /// The one called `name`.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.0.iter().find(|p| p.name == name)
    }

    /// What a state to go on from must hold: what trains, and the running statistics.
    pub fn changing(&self) -> impl Iterator<Item = &Param> {
        self.0.iter().filter(|p| p.trains || p.role == Role::Buffer)
    }

    /// Number of values in all parameters; buffers are none.
    pub fn count(&self) -> u64 {
        self.0.iter().filter(|p| p.role != Role::Buffer).map(Param::count).sum()
    }

    /// Number of values in those that train.
    pub fn count_trainable(&self) -> u64 {
        self.trainable().map(Param::count).sum()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
