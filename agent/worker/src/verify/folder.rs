//! A reference folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tch::{Device, Tensor};

use super::{VerifyError, procedural};
use crate::nn::Weights;

/// A reference folder, read.
pub(super) struct Folder {
    dir: PathBuf,
    pub(super) config: Value,
    /// Where its tensors are put.
    pub(super) device: Device,
    io: Weights,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read(&path)
            .with_context(|| format!("{}: expected a reference folder with a config.json", dir.display()))?;
        let config: Value = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        // Tokens are no tensors.
        let io = match config["kind"].as_str() {
            Some("tokenizer") => Weights::default(),
            _ => Weights::read(&dir.join("io.safetensors"))?,
        };
        Ok(Self { config, device: Device::Cpu, io, dir: dir.to_owned() })
    }

    /// The weights of this folder, of the one it is based on, or of the formula, for a state of these names and shapes.
    pub(super) fn weights(
        &self,
        state: impl Fn() -> anyhow::Result<Vec<(String, Vec<i64>)>>,
    ) -> anyhow::Result<Weights> {
        match self.config["weights"].as_str() {
            Some("procedural") => {
                let prefix = self.prefix();
                let state = state()?;
                Ok(Weights::from_tensors(
                    state.into_iter().map(|(n, shape)| (n.clone(), procedural::value(&format!("{prefix}{n}"), &shape))),
                ))
            }
            Some(other) => {
                bail!("weights are said to be \"{other}\"; expected \"procedural\", or a weights.safetensors")
            }
            None => Ok(Weights::read(&self.base().join("weights.safetensors"))?),
        }
    }

    /// Another file of the folder, if it is there.
    pub(super) fn more(&self, name: &str) -> anyhow::Result<Option<Weights>> {
        let path = self.dir.join(name);
        Ok(if path.exists() { Some(Weights::read(&path)?) } else { None })
    }

    /// Put before a tensor's name where its values follow from the formula.
    pub(super) fn prefix(&self) -> &str {
        self.config["name_prefix"].as_str().unwrap_or_default()
    }

    fn base(&self) -> PathBuf {
        match self.config["base_fixture"].as_str() {
            Some(base) => self.dir.with_file_name(base),
            None => self.dir.clone(),
        }
    }

    /// Whether there is a tensor of this name among the inputs and outputs.
    pub(super) fn has(&self, name: &str) -> bool {
        self.io.get(name).is_some()
    }

    /// A tensor of the inputs and outputs.
    pub(super) fn io(&self, name: &str) -> anyhow::Result<Tensor> {
        let found = self.io.get(name).map(|t| t.to_device(self.device));
        found.ok_or_else(|| anyhow!("{}: expected a tensor {name} in io.safetensors", self.dir.display()))
    }

    /// The tensors whose names begin with `prefix`, by the rest of their names.
    pub(super) fn io_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, Tensor)> {
        self.io.names().filter_map(move |n| Some((n.strip_prefix(prefix)?, self.io.get(n)?.to_device(self.device))))
    }

    fn wrong(&self, key: &str, expected: &str) -> anyhow::Error {
        anyhow!("{}: expected {key} in config.json to be {expected}, found {}", self.dir.display(), self.config[key])
    }

    pub(super) fn text(&self, key: &str) -> anyhow::Result<&str> {
        self.config[key].as_str().ok_or_else(|| self.wrong(key, "a text"))
    }

    pub(super) fn int(&self, key: &str) -> anyhow::Result<i64> {
        self.config[key].as_i64().ok_or_else(|| self.wrong(key, "a whole number"))
    }

    pub(super) fn number(&self, key: &str) -> anyhow::Result<f64> {
        self.config[key].as_f64().ok_or_else(|| self.wrong(key, "a number"))
    }

    /// Passes where the configuration says `expected` of `key`, or nothing.
    pub(super) fn expect(&self, key: &str, expected: &Value) -> Result<(), VerifyError> {
        match &self.config[key] {
            Value::Null => Ok(()),
            found if found == expected => Ok(()),
            found => Err(VerifyError::Unsupported(format!(
                "{}: only {key} = {expected} in config.json can be verified, found {found}",
                self.dir.display()
            ))),
        }
    }

    /// A number, or `default` where the configuration does not say.
    pub(super) fn number_or(&self, key: &str, default: f64) -> anyhow::Result<f64> {
        if self.config[key].is_null() { Ok(default) } else { self.number(key) }
    }

    pub(super) fn ints(&self, key: &str) -> anyhow::Result<Vec<i64>> {
        let list = self.config[key].as_array().and_then(|a| a.iter().map(Value::as_i64).collect());
        list.ok_or_else(|| self.wrong(key, "a list of whole numbers"))
    }

    pub(super) fn numbers(&self, key: &str) -> anyhow::Result<Vec<f64>> {
        let list = self.config[key].as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        list.ok_or_else(|| self.wrong(key, "a list of numbers"))
    }

    pub(super) fn texts(&self, key: &str) -> anyhow::Result<Vec<String>> {
        let list = self.config[key].as_array();
        let list = list.and_then(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        list.ok_or_else(|| self.wrong(key, "a list of texts"))
    }

    /// The entries of an object of numbers; none where there is no such key.
    pub(super) fn table(&self, key: &str) -> Vec<(&str, f64)> {
        let entries = self.config[key].as_object().into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?))).collect()
    }
}
