//! Models that are not trained, built from a folder's weights.

use anyhow::anyhow;
use fleet_common::plan::MethodSettings;
use tch::{Device, Kind};

use super::VerifyError;
use super::folder::Folder;
use crate::nn::{Builder, Seed};
use crate::peft;

/// The model that `make` puts together, with the folder's weights: all of them, and no others.
pub(super) fn build<M>(folder: &Folder, make: impl Fn(&Builder) -> M) -> Result<M, VerifyError> {
    let method = || peft::method(&MethodSettings::Full);
    let state = || -> anyhow::Result<Vec<(String, Vec<i64>)>> {
        let b = Builder::new(method(), None, Seed::root(0), Device::Cpu, Kind::Float);
        let _model = make(&b);
        let (params, _) = b.finish()?;
        Ok(params.iter().map(|p| (p.name.clone(), p.tensor.size())).collect())
    };
    let weights = folder.weights(state)?;
    let b = Builder::new(method(), Some(weights), Seed::root(0), folder.device, Kind::Float);
    let model = make(&b);
    let (_, load) = b.finish().map_err(anyhow::Error::from)?;
    let load = load.unwrap_or_default();
    let strange: Vec<_> = load.unexpected.iter().chain(&load.missing).collect();
    match strange.first() {
        None => Ok(model),
        Some(first) => Err(VerifyError::Broken(anyhow!(
            "the weights and the model do not have the same tensors: {first} and {} more are only in one of them",
            strange.len() - 1
        ))),
    }
}
