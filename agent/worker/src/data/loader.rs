//! Batches, decoded ahead by a few threads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context as _;
use fleet_common::spec::Recipe;
use fleet_dataset::{Dataset, Split};
use tch::{Device, Kind, Tensor};

use super::Transform;
use super::processor::normalized;
use crate::nn::Seed;
use crate::torch::guard;

/// Bytes of images in host memory.
#[derive(Debug)]
pub enum Pixels {
    /// Ordinary memory.
    Pageable(Vec<u8>),
    /// A flat tensor in memory that a GPU reads by itself: the copy to the device is queued rather than waited for.
    Pinned(Tensor),
}

/// Some images and their classes, in host memory.
#[derive(Debug)]
pub struct Batch {
    /// Planes of bytes, (batch, 3, size, size).
    pub pixels: Pixels,
    /// Class of each image.
    pub labels: Vec<i64>,
    /// Side of an image.
    pub size: u32,
}

impl Batch {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Equal parts, one after another; `parts` divides the number of images.
    pub fn split(self, parts: u32) -> impl Iterator<Item = Self> {
        let images = self.len() / parts.max(1) as usize;
        let pixels = 3 * (self.size as usize).pow(2);
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let mut part = rest.take()?;
            if part.len() > images {
                let later = part.pixels.split_off(images * pixels);
                rest = Some(Self { pixels: later, labels: part.labels.split_off(images), size: part.size });
            }
            Some(part)
        })
    }

    /// Normalised images (batch, 3, size, size) and labels (batch) on `device`.
    pub fn to_tensors(&self, recipe: &Recipe, device: Device) -> (Tensor, Tensor) {
        let shape = [self.len() as i64, 3, i64::from(self.size), i64::from(self.size)];
        let pixels = match &self.pixels {
            Pixels::Pageable(bytes) => Tensor::from_slice(bytes).to_device(device),
            Pixels::Pinned(bytes) => bytes.to_device_(device, Kind::Uint8, true, false),
        };
        (normalized(&pixels.view(shape), recipe), Tensor::from_slice(&self.labels).to_device(device))
    }

    /// The batch as `device` takes it fastest.
    fn ready_for(self, device: Device) -> anyhow::Result<Self> {
        match (self.pixels, device) {
            (Pixels::Pageable(bytes), Device::Cuda(_)) => {
                let pinned = guard(|| Tensor::from_slice(&bytes).pin_memory(device))?;
                Ok(Self { pixels: Pixels::Pinned(pinned), ..self })
            }
            (pixels, _) => Ok(Self { pixels, ..self }),
        }
    }
}

impl Pixels {
    /// Takes what follows the first `at` bytes away.
    fn split_off(&mut self, at: usize) -> Self {
        match self {
            Self::Pageable(bytes) => Self::Pageable(bytes.split_off(at)),
            Self::Pinned(bytes) => {
                let (at, all) = (at as i64, bytes.size()[0]);
                let later = bytes.narrow(0, at, all - at);
                *bytes = bytes.narrow(0, 0, at);
                Self::Pinned(later)
            }
        }
    }
}

/// Decodes batches in order, a few ahead of whoever takes them.
///
/// Batch b is made by thread b mod n, which may be one batch ahead. So memory is bounded, and the order does not depend
/// on who is fastest.
pub struct Loader {
    channels: Vec<Receiver<anyhow::Result<Batch>>>,
    next: usize,
    count: usize,
}

impl Loader {
    /// Decodes the batches `numbers` of `split` for `device` with `threads` threads; `pick` names the images of each
    /// batch, and the number of a batch and the place of an image in it seed its augmentation.
    #[allow(clippy::too_many_arguments, reason = "what a batch depends on")]
    pub fn new(
        dataset: Arc<Dataset>,
        split: Split,
        transform: Transform,
        seed: Seed,
        numbers: Range<usize>,
        threads: usize,
        device: Device,
        pick: impl Fn(usize) -> Vec<usize> + Send + Sync + 'static,
    ) -> Self {
        let pick = Arc::new(pick);
        let seed = seed.named("augmentation");
        let threads = threads.clamp(1, numbers.len().max(1));
        let channels = (0..threads)
            .map(|first| {
                // Handed over, not kept: each thread has one batch ready, and makes the next once that is taken.
                let (sender, receiver) = sync_channel(0);
                let (dataset, pick) = (dataset.clone(), pick.clone());
                let mine = numbers.clone().skip(first).step_by(threads);
                let work = move || {
                    let decode = |number: usize| {
                        make(&dataset, split, &transform, seed.branch(number as u64), &pick(number))?.ready_for(device)
                    };
                    produce(decode, mine, &sender);
                };
                thread::Builder::new().name(format!("decode-{first}")).spawn(work).expect("a thread can be started");
                receiver
            })
            .collect();
        Self { channels, next: 0, count: numbers.len() }
    }
}

fn produce(
    decode: impl Fn(usize) -> anyhow::Result<Batch>,
    numbers: impl Iterator<Item = usize>,
    to: &SyncSender<anyhow::Result<Batch>>,
) {
    for number in numbers {
        let batch = decode(number);
        let failed = batch.is_err();
        // Nobody takes batches any more: the trial is over.
        if to.send(batch).is_err() || failed {
            return;
        }
    }
}

fn make(dataset: &Dataset, split: Split, transform: &Transform, seed: Seed, images: &[usize]) -> anyhow::Result<Batch> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::with_capacity(images.len()));
    for (place, &index) in images.iter().enumerate() {
        let image = dataset.decode(split, index)?;
        pixels.extend(transform.apply(&image, seed.branch(place as u64))?);
        labels.push(i64::from(dataset.label(split, index)));
    }
    Ok(Batch { pixels: Pixels::Pageable(pixels), labels, size: transform.size })
}

impl Iterator for Loader {
    type Item = anyhow::Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        let thread = self.next % self.channels.len();
        self.next += 1;
        let batch = self.channels[thread].recv();
        Some(batch.context("a decoding thread ended early").and_then(|b| b))
    }
}
