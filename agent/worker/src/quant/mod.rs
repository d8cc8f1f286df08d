//! Frozen weights in 4 bits: QLoRA's NormalFloat (Dettmers et al., arXiv 2305.14314), as bitsandbytes computes and lays
//! it out.
//!
//! A weight is flattened row by row and cut into blocks. A block has one scale, its largest absolute value; each value
//! over the scale becomes the nearest of 16 codes. Two codes share a byte, the first in the high half. With double
//! quantisation the scales, less their mean, are themselves 8-bit codes with a scale per 256 of them.

mod codes;
mod linear;
mod scales;

use tch::{Device, Kind, Tensor};

pub use codes::{DYNAMIC_CODES, NF4_CODES};
pub use scales::Scales;

use crate::torch::GradMode;

/// How a weight is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Values that share a scale; even.
    pub block: i64,
    /// The scales are packed too.
    pub double: bool,
}

/// A packed weight.
#[derive(Debug)]
pub struct Nf4 {
    codes: Tensor,
    scales: Scales,
    shape: Vec<i64>,
    block: i64,
}

impl Clone for Nf4 {
    /// Another handle on the same codes.
    fn clone(&self) -> Self {
        Self {
            codes: self.codes.shallow_clone(),
            scales: self.scales.clone(),
            shape: self.shape.clone(),
            block: self.block,
        }
    }
}

impl Nf4 {
    /// Packs a weight of any shape and floating kind; the result is on the weight's device.
    pub fn quantize(weight: &Tensor, packing: Packing) -> Self {
        let _off = GradMode::off();
        let device = weight.device();
        let values = Vec::<f32>::try_from(weight.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]))
            .expect("a contiguous f32 tensor on the CPU");
        let (packed, absmax) = codes::pack(&values, packing.block as usize);
        Self {
            codes: Tensor::from_slice(&packed).to_device(device),
            scales: Scales::new(absmax, packing.double, device),
            shape: weight.size(),
            block: packing.block,
        }
    }

    /// The weight again, in `kind`.
    pub fn dequantize(&self, kind: Kind) -> Tensor {
        let _off = GradMode::off();
        let device = self.codes.device();
        let n = self.count() as i64;
        // A byte stands for two values, so one look-up in a table of 256 pairs gives both.
        let pairs = Tensor::from_slice(&codes::pairs()).view([256, 2]).to_device(device);
        let values = pairs.index_select(0, &self.codes.to_kind(Kind::Int)).view([-1]).narrow(0, 0, n);
        let scales = self.scales.values();
        let (full, rest) = (n / self.block, n % self.block);
        let mut blocks = values.narrow(0, 0, full * self.block).view([full, self.block]);
        let _ = blocks.g_mul_(&scales.narrow(0, 0, full).unsqueeze(1));
        if rest > 0 {
            let _ = values.narrow(0, full * self.block, rest).g_mul_(&scales.narrow(0, full, 1));
        }
        values.view(self.shape.as_slice()).to_kind(kind)
    }

    /// The codes, two in a byte.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// The scales, as they are kept.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The weight's shape.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product::<i64>().unsigned_abs() as usize
    }

    /// Bytes that it takes, scales included.
    pub fn bytes(&self) -> usize {
        self.codes.numel() + self.scales.bytes()
    }
}
