//! Adapters in HF PEFT's file layout: `adapter_config.json` and `adapter_model.safetensors`, to be taken to Python and
//! back.
//!
//! A file's names are those of the wrapped model, `base_model.model.` in front, without the adapter's own name. Beside
//! the adapters it holds whole modules that the training changed: the head, and batch norms whose statistics moved,
//! without which the adapter would not mean the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Error, ensure};
use fleet_checkpoint::adapter::{PREFIX, Update};
use fleet_common::plan::{AdaLoraSettings, CellSettings, LoraSettings, MethodSettings};
use fleet_common::spec::BatchNorm;
use fleet_common::worker::Merged;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::nn::{Params, Role, Weights};
use crate::torch::GradMode;

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";

/// A trained adapter, ready to be written.
#[derive(Debug)]
pub struct Adapter {
    config: Value,
    tensors: Vec<(String, Tensor)>,
}

impl Adapter {
    /// The adapter that was trained under `settings`; `None` where the method has none.
    pub fn of(settings: &CellSettings, params: &Params) -> Option<Self> {
        let mut config = match &settings.method {
            MethodSettings::Lora(lora) => lora_config(lora),
            // The file is that of the adapter alone: how the model beneath is packed is the loader's business.
            MethodSettings::QLora(qlora) => lora_config(&qlora.lora()),
            MethodSettings::AdaLora(ada) => adalora_config(ada, settings.train.as_ref()?.steps),
            _ => return None,
        };
        let adapters = params.iter().filter(|p| p.role == Role::Adapter);
        let layers: BTreeSet<&str> = adapters.filter_map(|p| Some(p.name.rsplit_once(".lora_")?.0)).collect();
        let modules = changed_modules(params, settings.train.as_ref()?.batch_norm);
        let inside =
            |name: &str| modules.iter().any(|m| name.strip_prefix(m).is_some_and(|rest| rest.starts_with('.')));
        let kept = params.iter().filter(|p| p.role == Role::Adapter || inside(&p.name));
        let tensors = kept.map(|p| (format!("{PREFIX}{}", p.name), p.tensor.detach())).collect();
        // Whole paths: a bare "proj" would be the patch embedding's convolution too, in PEFT's eyes.
        config["target_modules"] = json!(layers);
        config["modules_to_save"] = json!(modules);
        config["base_model_name_or_path"] = json!(settings.backbone.name());
        for (key, value) in [("bias", json!("none")), ("inference_mode", json!(true)), ("task_type", Value::Null)] {
            config[key] = value;
        }
        Some(Self { config, tensors })
    }

    /// Writes both files into the folder `dir`; `describe` may say more about the tensors.
    ///
    /// # Errors
    /// The folder cannot be written to, or the disk is full.
    pub fn write(self, dir: &Path, describe: impl FnOnce(Weights) -> Weights) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let path = dir.join(CONFIG);
        let text = serde_json::to_string_pretty(&self.config)?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(describe(Weights::from_tensors(self.tensors)).write(&dir.join(MODEL))?)
    }
}

/// Whole numbers as such: PEFT's own files have them so.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

fn lora_config(lora: &LoraSettings) -> Value {
    json!({
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": number(lora.alpha),
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
    })
}

/// Without a rank pattern: ranks that were taken away have a singular value of zero, so that the full shapes mean the
/// same, and every version of PEFT loads them.
fn adalora_config(ada: &AdaLoraSettings, steps: u32) -> Value {
    json!({
        "peft_type": "ADALORA",
        "init_r": ada.init_rank,
        "target_r": ada.target_rank,
        "lora_alpha": number(ada.alpha),
        "lora_dropout": ada.dropout,
        "tinit": ada.tinit,
        "tfinal": ada.tfinal,
        "deltaT": ada.delta_t,
        "beta1": ada.beta1,
        "beta2": ada.beta2,
        "orth_reg_weight": ada.orthogonal_weight,
        "total_step": steps,
        "rank_pattern": null,
        "init_lora_weights": true,
    })
}

/// Modules beside the adapters whose values changed: the head, and batch norms in which statistics moved.
fn changed_modules(params: &Params, batch_norm: BatchNorm) -> Vec<String> {
    let moved = |role: Role| role == Role::Head || role == Role::Buffer && batch_norm == BatchNorm::Moving;
    let module = |name: &str| name.rsplit_once('.').map(|(module, _)| module.to_owned());
    let modules: BTreeSet<String> = params.iter().filter(|p| moved(p.role)).filter_map(|p| module(&p.name)).collect();
    modules.into_iter().collect()
}

/// The weights `base` with the adapter in the folder `dir` added to them.
///
/// # Errors
/// The files are not there or not an adapter's, it is of a kind that nothing here merges, or it does not fit the
/// weights.
pub fn merge(base: Weights, dir: &Path) -> anyhow::Result<(Weights, Merged)> {
    let path = dir.join(CONFIG);
    let text = std::fs::read(&path)
        .with_context(|| format!("{}: expected an adapter's folder, with {CONFIG} and {MODEL}", dir.display()))?;
    let file = Weights::read(&dir.join(MODEL))?;
    let adapter = fleet_checkpoint::adapter::Adapter::read(&text, file.names()).map_err(Error::msg);
    let adapter = adapter.with_context(|| path.display().to_string())?;
    let plain = adapter.replaced.iter().map(|(ours, name)| Ok((ours.clone(), tensor(&file, name)?.shallow_clone())));
    let plain = plain.collect::<anyhow::Result<Vec<_>>>()?;
    let _off = GradMode::off();
    let mut tensors: BTreeMap<String, Tensor> =
        base.names().filter_map(|n| Some((n.to_owned(), base.get(n)?.shallow_clone()))).collect();
    let layers = adapter.layers.len();
    for (layer, parts) in &adapter.layers {
        let name = format!("{layer}.weight");
        let weight = tensors.get(&name).with_context(|| {
            format!(
                "the adapter is for a layer {layer}, which the weights do not have; are they of another architecture?"
            )
        })?;
        let update = update(layer, parts, &file)? * adapter.scale;
        ensure!(
            update.size() == weight.size(),
            "{layer}: the adapter is for a weight of shape {:?}, the weights have {:?}",
            update.size(),
            weight.size()
        );
        let merged = (weight.to_kind(Kind::Float) + update).to_kind(weight.kind());
        tensors.insert(name, merged);
    }
    let replaced = plain.iter().map(|(name, _)| name.clone()).collect();
    tensors.extend(plain);
    // Whose classes the head tells apart, and how images come in, the adapter's file knows better than the base's.
    let mut out = Weights::from_tensors(tensors);
    if let Some(classes) = file.classes() {
        out = out.with_classes(classes);
    }
    if let Some(recipe) = file.recipe().or(base.recipe()) {
        out = out.with_recipe(recipe);
    }
    Ok((out, Merged { layers, replaced }))
}

/// A tensor of the adapter's file.
fn tensor<'a>(file: &'a Weights, name: &str) -> anyhow::Result<&'a Tensor> {
    file.get(name).context("a tensor of the file")
}

/// B·A, or B·(A∘E).
fn update(layer: &str, parts: &Update<'_>, file: &Weights) -> anyhow::Result<Tensor> {
    let part = |name: &str| Ok::<_, Error>(tensor(file, name)?.to_kind(Kind::Float));
    let (a, b) = (part(parts.a)?, part(parts.b)?);
    let fits = |t: &Tensor| t.dim() == 2;
    ensure!(
        fits(&a) && fits(&b) && b.size()[1] == a.size()[0],
        "{layer}: expected lora_A (rank, inputs) and lora_B (outputs, rank), found {:?} and {:?}",
        a.size(),
        b.size()
    );
    let Some(e) = parts.e.map(part).transpose()? else { return Ok(b.matmul(&a)) };
    ensure!(
        e.size() == [a.size()[0], 1],
        "{layer}: expected lora_E (rank, 1) for a rank of {}, found {:?}",
        a.size()[0],
        e.size()
    );
    Ok(b.matmul(&(a * e)))
}
