//! Tensors without values: a size, a storage that may be shared, and a place in a graph.
//!
//! A storage is counted when it is made and when its last holder is gone, as libtorch's allocator counts them. So code
//! that is written as the model is written (what is a temporary, what a node saves) has the model's memory.

use std::cell::Cell;
use std::rc::Rc;

use super::graph::Edge;

/// Bytes of a single-precision number.
pub(super) const SINGLE: u64 = 4;

/// Counts what is alive, and whether operations are recorded.
#[derive(Debug, Default)]
pub(super) struct Tape {
    live: Cell<u64>,
    peak: Cell<u64>,
    recording: Cell<bool>,
    numbers: Cell<u64>,
}

impl Tape {
    /// An empty one that does not record.
    pub(super) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Bytes that tensors hold now.
    pub(super) fn live(&self) -> u64 {
        self.live.get()
    }

    /// Most bytes that tensors held since [`Tape::reset_peak`].
    pub(super) fn peak(&self) -> u64 {
        self.peak.get()
    }

    /// Starts a new peak; returns the one before.
    pub(super) fn reset_peak(&self) -> u64 {
        self.peak.replace(self.live.get())
    }

    /// Lets the peak be at least `bytes`.
    pub(super) fn raise_peak(&self, bytes: u64) {
        self.peak.set(self.peak.get().max(bytes));
    }

    /// Whether operations are recorded for backward.
    pub(super) fn records(&self) -> bool {
        self.recording.get()
    }

    /// Runs `work` with recording on or off.
    pub(super) fn recording<T>(&self, on: bool, work: impl FnOnce() -> T) -> T {
        let before = self.recording.replace(on);
        let result = work();
        self.recording.set(before);
        result
    }

    /// The next number of a node or leaf; later ones are larger.
    pub(super) fn number(&self) -> u64 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    /// A new tensor of `numel` values of `width` bytes.
    pub(super) fn tensor(self: &Rc<Self>, numel: u64, width: u64) -> Tensor {
        let bytes = numel * width;
        self.live.set(self.live.get() + bytes);
        self.raise_peak(self.live.get());
        Tensor { storage: Rc::new(Storage { bytes, tape: self.clone() }), numel, width, edge: None }
    }

    /// A new tensor of `numel` single-precision values.
    pub(super) fn single(self: &Rc<Self>, numel: u64) -> Tensor {
        self.tensor(numel, SINGLE)
    }
}

/// Memory that some tensors share.
#[derive(Debug)]
pub(super) struct Storage {
    bytes: u64,
    tape: Rc<Tape>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.tape.live.set(self.tape.live.get() - self.bytes);
    }
}

/// What a node keeps of a tensor until its backward has run.
pub(super) type Saved = Rc<Storage>;

/// A tensor's size and where its gradient goes.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    storage: Rc<Storage>,
    /// Values.
    pub(super) numel: u64,
    /// Bytes of a value.
    pub(super) width: u64,
    /// `None` where no gradient is wanted.
    pub(super) edge: Option<Edge>,
}

impl Tensor {
    /// The tape that it is counted on.
    pub(super) fn tape(&self) -> &Rc<Tape> {
        &self.storage.tape
    }

    /// A new tensor as large as this one.
    pub(super) fn alike(&self) -> Self {
        self.tape().tensor(self.numel, self.width)
    }

    /// Its memory, to be kept.
    pub(super) fn save(&self) -> Saved {
        self.storage.clone()
    }

    /// Its memory where `wanted`.
    pub(super) fn save_if(&self, wanted: bool) -> Option<Saved> {
        wanted.then(|| self.save())
    }

    /// Whether it takes part in backward.
    pub(super) fn requires_grad(&self) -> bool {
        self.edge.is_some()
    }

    /// The same memory outside of any graph, seen as `numel` values.
    pub(super) fn part(&self, numel: u64) -> Self {
        Self { numel, edge: None, ..self.clone() }
    }

    /// The same memory outside of any graph.
    pub(super) fn detach(&self) -> Self {
        self.part(self.numel)
    }

    /// The same memory as a leaf of the graph, with the leaf's number.
    pub(super) fn leaf(&self) -> (Self, u64) {
        let number = self.tape().number();
        (Self { edge: Some(Edge::Leaf(number)), ..self.clone() }, number)
    }

    /// The leaf's number, where it is one.
    pub(super) fn leaf_number(&self) -> Option<u64> {
        match self.edge {
            Some(Edge::Leaf(number)) => Some(number),
            _ => None,
        }
    }
}
