//! The scales of a packed weight, as they are, or packed themselves.

use tch::{Device, Kind, Tensor};

use super::codes::{DYNAMIC_CODES, dynamic_code};

/// Scales whose 8-bit codes share a scale.
const BLOCK: i64 = 256;

/// One scale per block of the weight.
#[derive(Debug)]
pub enum Scales {
    /// f32.
    Plain(Tensor),
    /// 8-bit codes.
    Double {
        /// Code of each scale, u8.
        codes: Tensor,
        /// Scale of each 256 codes, f32.
        absmax: Tensor,
        /// Mean of all scales, which was subtracted first; one value, f32.
        offset: Tensor,
    },
}

impl Clone for Scales {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(scales) => Self::Plain(scales.shallow_clone()),
            Self::Double { codes, absmax, offset } => Self::Double {
                codes: codes.shallow_clone(),
                absmax: absmax.shallow_clone(),
                offset: offset.shallow_clone(),
            },
        }
    }
}

impl Scales {
    pub(super) fn new(scales: Vec<f32>, double: bool, device: Device) -> Self {
        let plain = Tensor::from_slice(&scales);
        if !double {
            return Self::Plain(plain.to_device(device));
        }
        // PyTorch's own mean and difference, so that they round as the reference's do.
        let offset = plain.mean(Kind::Float);
        let centred = Vec::<f32>::try_from(&plain - &offset).expect("f32 on the CPU");
        let mut codes = Vec::with_capacity(centred.len());
        let mut absmax = Vec::with_capacity(centred.len().div_ceil(BLOCK as usize));
        for block in centred.chunks(BLOCK as usize) {
            let most = block.iter().fold(0f32, |most, x| most.max(x.abs()));
            codes.extend(block.iter().map(|x| if most == 0.0 { 0 } else { dynamic_code(x * (1.0 / most)) }));
            absmax.push(most);
        }
        Self::Double {
            codes: Tensor::from_slice(&codes).to_device(device),
            absmax: Tensor::from_slice(&absmax).to_device(device),
            offset: offset.view([1]).to_device(device),
        }
    }

    /// The scales, f32.
    pub fn values(&self) -> Tensor {
        match self {
            Self::Plain(scales) => scales.shallow_clone(),
            Self::Double { codes, absmax, offset } => {
                let table = Tensor::from_slice(&*DYNAMIC_CODES).to_device(codes.device());
                let values = table.index_select(0, &codes.to_kind(Kind::Int));
                let per_code = absmax.repeat_interleave_self_int(BLOCK, 0, None).narrow(0, 0, codes.size()[0]);
                values * per_code + offset
            }
        }
    }

    /// What is kept.
    pub(super) fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Plain(scales) => vec![scales],
            Self::Double { codes, absmax, offset } => vec![codes, absmax, offset],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(scales) => scales.numel() * 4,
            Self::Double { codes, absmax, offset } => codes.numel() + (absmax.numel() + offset.numel()) * 4,
        }
    }
}
