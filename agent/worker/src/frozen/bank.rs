//! Features of the training images. They are collected in host memory, because a budget is for the model; where they fit
//! beside it, they are kept on the device.

use tch::{Device, Kind, Tensor};

use crate::torch::memory::Memory;
use crate::torch::{TorchError, guard};

/// Images that are offered at once where the bank is in host memory.
const PIECE: usize = 4096;

/// Features with labels.
#[derive(Debug, Default)]
pub struct Bank {
    /// Row by row.
    features: Vec<f32>,
    labels: Vec<i64>,
}

/// A bank to be read.
#[derive(Debug)]
pub enum Shelved {
    /// On the device: features (n, width) and labels (n).
    Device(Tensor, Tensor),
    /// In host memory.
    Host(Bank),
}

impl Bank {
    /// Adds features (batch, width) of images with these labels.
    pub fn push(&mut self, features: &Tensor, labels: &[i64]) {
        let features = features.to_kind(Kind::Float).to_device(Device::Cpu).contiguous();
        let at = self.features.len();
        self.features.resize(at + features.numel(), 0.0);
        features.copy_data(&mut self.features[at..], features.numel());
        self.labels.extend(labels);
    }

    /// Images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn width(&self) -> usize {
        self.features.len() / self.labels.len().max(1)
    }

    /// All of it on a device: features (n, width) and labels (n).
    pub fn whole(&self, device: Device) -> (Tensor, Tensor) {
        self.piece(0, self.len(), device)
    }

    fn piece(&self, from: usize, to: usize, device: Device) -> (Tensor, Tensor) {
        let width = self.width();
        let features = Tensor::from_slice(&self.features[from * width..to * width]).view([-1, width.max(1) as i64]);
        (features.to_device(device), Tensor::from_slice(&self.labels[from..to]).to_device(device))
    }

    /// On the device if it fits, else where it is.
    ///
    /// # Errors
    /// The device fails for another reason.
    pub fn on(self, device: Device, memory: Memory) -> Result<Shelved, TorchError> {
        match memory.watch(|| guard(|| self.whole(device))) {
            (Ok((features, labels)), _) => Ok(Shelved::Device(features, labels)),
            (Err(_), true) => Ok(Shelved::Host(self)),
            (Err(why), false) => Err(why),
        }
    }
}

impl Shelved {
    /// Gives all of it to `take`, piece by piece: features (n, width) and labels (n).
    pub fn pieces(&self, device: Device, mut take: impl FnMut(&Tensor, &Tensor)) {
        match self {
            Self::Device(features, labels) => take(features, labels),
            Self::Host(bank) => {
                for from in (0..bank.len()).step_by(PIECE) {
                    let (features, labels) = bank.piece(from, (from + PIECE).min(bank.len()), device);
                    take(&features, &labels);
                }
            }
        }
    }
}
