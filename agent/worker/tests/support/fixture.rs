//! Reference fixtures: config.json, weights.safetensors, io.safetensors.

use std::path::PathBuf;

use fleet_worker::nn::Weights;
use serde_json::Value;
use tch::Tensor;

/// One reference run.
pub struct Fixture {
    pub config: Value,
    dir: PathBuf,
    io: Weights,
}

impl Fixture {
    /// Opens `tests/fixtures/NAME` of the repository.
    pub fn open(name: &str) -> Self {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name);
        let config = std::fs::read(dir.join("config.json")).expect("a fixture of the repository");
        Self {
            config: serde_json::from_slice(&config).expect("JSON"),
            io: Weights::read(&dir.join("io.safetensors")).expect("safetensors"),
            dir,
        }
    }

    /// The weights of this fixture or of the one it is based on.
    pub fn weights(&self) -> Weights {
        let dir = match self.config["base_fixture"].as_str() {
            Some(base) => self.dir.with_file_name(base),
            None => self.dir.clone(),
        };
        Weights::read(&dir.join("weights.safetensors")).expect("safetensors")
    }

    /// A tensor of io.safetensors.
    pub fn io(&self, name: &str) -> Tensor {
        self.io.get(name).unwrap_or_else(|| panic!("the fixture has no {name}")).shallow_clone()
    }

    /// Tensors of io.safetensors whose names start with `prefix`, by the rest of the name.
    pub fn io_under(&self, prefix: &str) -> Vec<(String, Tensor)> {
        self.io.names().filter_map(|n| n.strip_prefix(prefix).map(|rest| (rest.to_owned(), self.io(n)))).collect()
    }

    pub fn int(&self, key: &str) -> i64 {
        self.config[key].as_i64().unwrap_or_else(|| panic!("the fixture's config has no {key}"))
    }

    pub fn floats(&self, key: &str) -> Vec<f64> {
        self.config[key].as_array().expect(key).iter().map(|x| x.as_f64().expect("a number")).collect()
    }
}

/// The largest difference relative to the reference's largest value, with an absolute floor: a gradient that is
/// exactly zero in theory is noise in the reference.
pub fn relative_error(got: &Tensor, reference: &Tensor, floor: f64) -> f64 {
    let difference = super::max_diff(got, reference);
    if difference <= floor { 0.0 } else { difference / reference.abs().max().double_value(&[]) }
}
