//! A model's parameters by name.

use tch::Tensor;

/// What a parameter is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pretrained model.
    Base,
    /// The classification head, which starts fresh when the number of classes changes and trains under every method.
    Head,
    /// What a fine-tuning method added.
    Adapter,
}

/// A named parameter.
#[derive(Debug)]
pub struct Param {
    /// Its key in public checkpoints.
    pub name: String,
    /// Its values.
    pub tensor: Tensor,
    /// What it is part of.
    pub role: Role,
    /// Whether it trains.
    pub trains: bool,
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

    /// Number of values in all parameters.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|p| p.tensor.numel() as u64).sum()
    }

    /// Number of values in those that train.
    pub fn count_trainable(&self) -> u64 {
        self.trainable().map(|p| p.tensor.numel() as u64).sum()
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
