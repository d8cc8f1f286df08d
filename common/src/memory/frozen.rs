//! Models that are not trained: their weights, and what a single image needs of activations, because a batch is made as
//! small as it has to be.

use super::Estimate;
use crate::spec::{Foundation, Storage};

/// Activations of one image, as a share of the weights: between 1 % (PaliGemma) and 20 % (DINOv2 small) by the sizes of
/// one block's queries, keys, values and MLP.
const ONE_IMAGE: f64 = 0.2;

pub(super) fn estimate(foundation: Foundation, storage: Storage) -> Estimate {
    let parameters = (foundation.millions() * 1e6) as u64;
    let weights = (storage.bytes() * parameters as f64) as u64;
    let peak = weights + (4.0 * parameters as f64 * ONE_IMAGE) as u64;
    Estimate {
        parameters,
        trainable: 0,
        persistent_bytes: weights,
        gradient_bytes: 0,
        blocks: Vec::new(),
        peak_bytes: peak,
        peak_none_bytes: peak,
        least_bytes: peak,
    }
}
