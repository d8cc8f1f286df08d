//! What a pickle says, as a list of values that refer to each other by number.
//!
//! Numbers rather than owners: a list that contains itself is then nothing special, and values nested a million deep
//! are dropped one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use crate::dtype::Dtype;
use crate::tensor::{Storage, Tensor};

/// The number of a value in its [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u32);

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer; those of more than 16 bytes are [`Node::Opaque`].
    Int(i128),
    /// A number in double precision.
    Float(f64),
    /// Text.
    Text(Box<str>),
    /// Bytes.
    Bytes(Box<[u8]>),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Box<[Id]>),
    /// A set.
    Set(Vec<Id>),
    /// Keys and values, in the order in which they were set; of equal keys the last one counts.
    Dict(Vec<(Id, Id)>),
    /// A tensor.
    Tensor(Box<Tensor>),
    /// A class or function by its full name.
    Global(Arc<str>),
    /// A run of numbers, by its number, and which part of it is meant: the first one and how many.
    Storage(Box<(u32, u64, u64)>),
    /// What is not understood, in words. It holds nothing, whatever was put into it.
    Opaque(Arc<str>),
}

/// All values of a pickle.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    root: Id,
    storages: Vec<Storage>,
    keys: HashMap<Box<str>, u32>,
}

impl Tree {
    /// Values that every pickle shares, so that each mention of them costs nothing.
    pub(crate) const NONE: Id = Id(0);
    pub(crate) const FALSE: Id = Id(1);
    pub(crate) const TRUE: Id = Id(2);

    pub(crate) fn new() -> Self {
        let nodes = vec![Node::None, Node::Bool(false), Node::Bool(true)];
        Self { nodes, root: Self::NONE, storages: Vec::new(), keys: HashMap::new() }
    }

    /// The value that the pickle is about.
    pub fn root(&self) -> Id {
        self.root
    }

    pub(crate) fn set_root(&mut self, root: Id) {
        self.root = root;
    }

    /// A value.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: `None` is always there.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn push(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        // The machine stops long before 2^32 values.
        Id((self.nodes.len() - 1) as u32)
    }

    pub(crate) fn storages(&self) -> &[Storage] {
        &self.storages
    }

    /// The number of the storage called `key`.
    pub(crate) fn storage_called(&self, key: &str) -> Option<u32> {
        self.keys.get(key).copied()
    }

    /// Numbers a storage; `None` where the same key stands for something else already.
    pub(crate) fn storage(&mut self, key: &str, dtype: Dtype, numel: u64) -> Option<u32> {
        let storage = Storage { key: key.into(), dtype, numel };
        if let Some(&number) = self.keys.get(key) {
            return (self.storages[number as usize] == storage).then_some(number);
        }
        let number = self.storages.len() as u32;
        self.keys.insert(key.into(), number);
        self.storages.push(storage);
        Some(number)
    }

    /// The value of a dict under a text key.
    pub fn get(&self, dict: Id, key: &str) -> Option<Id> {
        let Node::Dict(entries) = self.node(dict) else { return None };
        let named = |id: &Id| matches!(self.node(*id), Node::Text(text) if **text == *key);
        entries.iter().rev().find(|(k, _)| named(k)).map(|(_, value)| *value)
    }

    /// What a value is, in words for a message.
    pub fn describe(&self, id: Id) -> String {
        match self.node(id) {
            Node::None => "None".to_owned(),
            Node::Bool(_) => "a bool".to_owned(),
            Node::Int(_) => "an integer".to_owned(),
            Node::Float(_) => "a number".to_owned(),
            Node::Text(_) => "a text".to_owned(),
            Node::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Node::List(items) => format!("a list of {}", items.len()),
            Node::Tuple(items) => format!("a tuple of {}", items.len()),
            Node::Set(items) => format!("a set of {}", items.len()),
            Node::Dict(entries) => format!("a dict of {}", entries.len()),
            Node::Tensor(tensor) => format!("a tensor of {:?} {}", tensor.shape(), tensor.dtype().name()),
            Node::Global(name) => format!("the name {name}"),
            Node::Storage(_) => "a storage".to_owned(),
            Node::Opaque(what) => what.to_string(),
        }
    }
}
