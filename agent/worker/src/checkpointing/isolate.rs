//! One block by itself, under one choice: what it keeps, what it needs, and how long it takes.
//!
//! The block runs forward and backward on copies of its inputs, between two nodes of ours: behind its inputs one that
//! lets nobody but the block hold them, in front of its outputs one whose backward makes their gradients. So each input
//! and output can be let go of while the graph lives, and what stays is what the block keeps.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fleet_common::record::BlockChoice;
use tch::{Cuda, Device, Kind, Tensor};

use super::executor::run;
use crate::nn::{Ctx, Slot};
use crate::torch::memory::Memory;
use crate::torch::{Function, GradMode, attach, grad};

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Isolated {
    /// Bytes that stay from forward to backward, those of inputs and outputs left out.
    pub inner: u64,
    /// Which of its inputs the block keeps.
    pub inputs: Vec<bool>,
    /// Which of its outputs the block keeps.
    pub outputs: Vec<bool>,
    /// Most bytes that its forward needs beside its inputs.
    pub there: u64,
    /// Most bytes that its backward needs beside what was kept and the gradients of its outputs.
    pub back: u64,
    /// Time of its forward.
    pub forward: Duration,
    /// Time of its backward.
    pub backward: Duration,
}

/// What to measure it with.
pub(super) struct Bench<'a> {
    pub device: Device,
    /// Number of the block.
    pub index: usize,
    pub slot: &'a Slot,
    /// Its inputs, as the block before gives them.
    pub xs: &'a [Tensor],
    /// Which of them want a gradient.
    pub wanted: &'a [bool],
}

/// Bytes of a tensor's values.
pub(super) fn bytes(x: &Tensor) -> u64 {
    (x.numel() * x.kind().elt_size_in_bytes()) as u64
}

impl Bench<'_> {
    /// Runs the block as `choice` says. Run it inside [`crate::torch::guard`].
    ///
    /// # Errors
    /// libtorch's, a refused allocation among them.
    pub(super) fn measure(&self, ctx: &Ctx, choice: BlockChoice) -> anyhow::Result<Isolated> {
        let memory = Memory::of(self.device);
        let live = || Ok::<u64, anyhow::Error>(memory.stats()?.live);
        let _on = GradMode::on();
        let start = self.settled()?;
        let leaf = Tensor::zeros([1], (Kind::Float, self.device)).set_requires_grad(true);
        let mut xs = self.inputs(&leaf)?;
        let sizes: Vec<u64> = xs.iter().map(bytes).collect();

        ctx.seed.apply();
        self.synchronize();
        let before = live()?;
        memory.part_peak(None)?;
        let from = Instant::now();
        let mut ys = run(self.slot, self.index, xs.iter().map(Tensor::shallow_clone).collect(), ctx, choice);
        self.synchronize();
        let forward = from.elapsed();
        let there = memory.stats()?.peak.saturating_sub(before);

        let begin = Arc::new(Mutex::new(None));
        let root = self.root(&ys, &begin)?;
        let let_go = |tensors: &mut Vec<Tensor>, sizes: &[u64]| {
            let mut kept = Vec::new();
            for size in sizes {
                let held = live()?;
                drop(tensors.remove(0));
                kept.push(held.saturating_sub(live()?) < *size);
            }
            Ok::<_, anyhow::Error>(kept)
        };
        let inputs = let_go(&mut xs, &sizes)?;
        let of_outputs: Vec<u64> = ys.iter().map(bytes).collect();
        let outputs = let_go(&mut ys, &of_outputs)?;
        let of =
            |kept: &[bool], sizes: &[u64]| -> u64 { kept.iter().zip(sizes).filter(|(k, _)| **k).map(|(_, s)| s).sum() };
        let borders = of(&inputs, &sizes) + of(&outputs, &of_outputs);
        let inner = live()?.saturating_sub(start + borders);

        let mut measured = Isolated { inner, inputs, outputs, there, back: 0, forward, backward: Duration::ZERO };
        if root.requires_grad() {
            let params = self.slot.trainable();
            let targets: Vec<&Tensor> = params.iter().chain([&leaf]).collect();
            let grads = grad(&[&root], &[None], &targets)?;
            self.synchronize();
            let begin = begin.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (from, held): (Instant, u64) = begin.context("backward did not reach the block")?;
            measured.backward = from.elapsed();
            measured.back = memory.stats()?.peak.saturating_sub(held);
            drop(grads);
        }
        Ok(measured)
    }

    /// Copies of the inputs; gradients that reach them end there, on the way to `leaf`.
    fn inputs(&self, leaf: &Tensor) -> anyhow::Result<Vec<Tensor>> {
        let mut copies: Vec<Tensor> = {
            let _off = GradMode::off();
            self.xs.iter().map(Tensor::copy).collect()
        };
        for (copy, wanted) in copies.iter_mut().zip(self.wanted) {
            if *wanted {
                *copy = attach(vec![copy.shallow_clone()], &[leaf], Sink)?.swap_remove(0);
            }
        }
        Ok(copies)
    }

    /// A number that depends on the outputs; `begin` becomes when its gradient reached them, and what was live then.
    fn root(&self, ys: &[Tensor], begin: &Arc<Mutex<Option<(Instant, u64)>>>) -> anyhow::Result<Tensor> {
        let number = Tensor::zeros([1], (Kind::Float, self.device));
        let source = Source {
            device: self.device,
            outputs: ys.iter().map(|y| (y.size(), y.kind())).collect(),
            begin: begin.clone(),
        };
        let mut roots = attach(vec![number], &ys.iter().collect::<Vec<_>>(), source)?;
        Ok(roots.swap_remove(0).sum(Kind::Float))
    }

    /// What is live, once it stays so: on a GPU backward runs on a thread of libtorch's, which may let go of the last
    /// node's tensors a moment after whoever asked for gradients has them.
    fn settled(&self) -> anyhow::Result<u64> {
        let live = || Memory::of(self.device).stats().map(|s| s.live);
        let mut before = live()?;
        while let Device::Cuda(_) = self.device {
            std::thread::sleep(Duration::from_millis(1));
            let now = live()?;
            if now == before {
                break;
            }
            before = now;
        }
        Ok(before)
    }

    fn synchronize(&self) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
    }
}

/// Where gradients end.
struct Sink;

impl Function for Sink {
    fn backward(&mut self, _grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        Ok(needed.iter().map(|_| None).collect())
    }
}

/// Where gradients begin: ones, for outputs that want them.
struct Source {
    device: Device,
    outputs: Vec<(Vec<i64>, Kind)>,
    begin: Arc<Mutex<Option<(Instant, u64)>>>,
}

impl Function for Source {
    fn backward(&mut self, _grads: Vec<Option<Tensor>>, needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let ones = |((size, kind), needed): (&(Vec<i64>, Kind), &bool)| {
            needed.then(|| Tensor::ones(size.as_slice(), (*kind, self.device)))
        };
        let grads = self.outputs.iter().zip(needed).map(ones).collect();
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
        let memory = Memory::of(self.device);
        memory.part_peak(None)?;
        let held = memory.stats()?.live;
        *self.begin.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), held));
        Ok(grads)
    }
}
