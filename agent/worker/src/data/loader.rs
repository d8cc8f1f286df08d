//! Batches, decoded ahead by a few threads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context as _;
use fleet_common::spec::Recipe;
use fleet_dataset::{Dataset, Split};
use tch::{Device, Tensor};

use super::Transform;
use super::processor::normalized;
use crate::nn::Seed;

/// Some images and their classes, in host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Planes of bytes, (batch, 3, size, size).
    pub pixels: Vec<u8>,
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
        let pixels = self.pixels.len() / self.len().max(1);
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let mut part = rest.take()?;
            if part.len() > images {
                let (later, labels) = (part.pixels.split_off(images * pixels), part.labels.split_off(images));
                rest = Some(Self { pixels: later, labels, size: part.size });
            }
            Some(part)
        })
    }

    /// Normalised images (batch, 3, size, size) and labels (batch) on `device`.
    pub fn to_tensors(&self, recipe: &Recipe, device: Device) -> (Tensor, Tensor) {
        let shape = [self.len() as i64, 3, i64::from(self.size), i64::from(self.size)];
        let images = normalized(&Tensor::from_slice(&self.pixels).view(shape).to_device(device), recipe);
        (images, Tensor::from_slice(&self.labels).to_device(device))
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
    /// Decodes the batches `numbers` of `split` with `threads` threads; `pick` names the images of each batch, and the
    /// number of a batch and the place of an image in it seed its augmentation.
    pub fn new(
        dataset: Arc<Dataset>,
        split: Split,
        transform: Transform,
        seed: Seed,
        numbers: Range<usize>,
        threads: usize,
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
                let work = move || produce(&dataset, split, &transform, seed, mine, &*pick, &sender);
                thread::Builder::new().name(format!("decode-{first}")).spawn(work).expect("a thread can be started");
                receiver
            })
            .collect();
        Self { channels, next: 0, count: numbers.len() }
    }
}

fn produce(
    dataset: &Dataset,
    split: Split,
    transform: &Transform,
    seed: Seed,
    numbers: impl Iterator<Item = usize>,
    pick: &(impl Fn(usize) -> Vec<usize> + ?Sized),
    to: &SyncSender<anyhow::Result<Batch>>,
) {
    for number in numbers {
        let batch = make(dataset, split, transform, seed.branch(number as u64), &pick(number));
        let failed = batch.is_err();
        // Nobody takes batches any more: the trial is over.
        if to.send(batch).is_err() || failed {
            return;
        }
    }
}

fn make(dataset: &Dataset, split: Split, transform: &Transform, seed: Seed, images: &[usize]) -> anyhow::Result<Batch> {
    let mut batch = Batch { pixels: Vec::new(), labels: Vec::with_capacity(images.len()), size: transform.size };
    for (place, &index) in images.iter().enumerate() {
        let image = dataset.decode(split, index)?;
        batch.pixels.extend(transform.apply(&image, seed.branch(place as u64))?);
        batch.labels.push(i64::from(dataset.label(split, index)));
    }
    Ok(batch)
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
