//! Adapters in HF PEFT's layout: what `adapter_config.json` says, and what the names in `adapter_model.safetensors` mean.

use std::collections::BTreeMap;

use serde_json::Value;

/// What PEFT puts before the names of a wrapped model's parameters.
pub const PREFIX: &str = "base_model.model.";

/// What is to be done with an adapter's tensors, which go by their names in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter<'a> {
    /// What each update is multiplied by.
    pub scale: f64,
    /// The adapted layers by path.
    pub layers: BTreeMap<String, Update<'a>>,
    /// Tensors that take the place of the model's own, by their names there.
    pub replaced: BTreeMap<String, &'a str>,
}

/// The parts of a layer's update: B·A, or B·(A∘E).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update<'a> {
    /// (rank, inputs)
    pub a: &'a str,
    /// (outputs, rank)
    pub b: &'a str,
    /// (rank, 1), in an AdaLoRA's.
    pub e: Option<&'a str>,
}

impl<'a> Adapter<'a> {
    /// From the file's JSON and the tensors' names.
    ///
    /// # Errors
    /// In words: it is no adapter, or of a kind that is not merged.
    pub fn read(config: &[u8], names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let config: Value = serde_json::from_slice(config).map_err(|e| format!("it is not JSON: {e}"))?;
        let scale = scale(&config)?;
        let (mut parts, mut replaced) = (BTreeMap::<String, BTreeMap<String, &'a str>>::new(), BTreeMap::new());
        for name in names {
            let ours =
                name.strip_prefix(PREFIX).unwrap_or(name).replace(".default", "").replace(".modules_to_save", "");
            let before = match ours.rsplit_once(".lora_") {
                Some((layer, part)) => {
                    let part = part.strip_suffix(".weight").unwrap_or(part).to_owned();
                    parts.entry(layer.to_owned()).or_default().insert(part, name)
                }
                None => replaced.insert(ours, name),
            };
            if let Some(before) = before {
                return Err(format!("two tensors mean the same: {before:.200} and {name:.200}; keep one"));
            }
        }
        if parts.is_empty() {
            return Err("it holds no adapter: expected names that end in lora_A and lora_B".to_owned());
        }
        let layers = parts.into_iter().map(|(layer, parts)| Ok((layer.clone(), update(&layer, parts)?)));
        Ok(Self { scale, layers: layers.collect::<Result<_, String>>()?, replaced })
    }
}

fn update<'a>(layer: &str, mut parts: BTreeMap<String, &'a str>) -> Result<Update<'a>, String> {
    let mut part = |name: &str| parts.remove(name);
    let (a, b, e) = (part("A"), part("B"), part("E"));
    if let Some(other) = parts.keys().next() {
        return Err(format!("{layer:.200}: an adapter with lora_{other:.80} cannot be merged here"));
    }
    let lacks = |name| format!("{layer:.200}: the adapter has no lora_{name}");
    Ok(Update { a: a.ok_or_else(|| lacks("A"))?, b: b.ok_or_else(|| lacks("B"))?, e })
}

/// What an update is multiplied by.
fn scale(config: &Value) -> Result<f64, String> {
    let number = |key: &str| {
        config[key]
            .as_f64()
            .ok_or_else(|| format!("expected {key} to be a number, found {:.80}", config[key].to_string()))
    };
    let is_set = |key: &str| match &config[key] {
        Value::Null | Value::Bool(false) => false,
        Value::Object(entries) => !entries.is_empty(),
        Value::String(text) => key != "bias" || text != "none",
        _ => true,
    };
    let kind = config["peft_type"].as_str().unwrap_or_default().to_uppercase();
    let strange: &[&str] = match kind.as_str() {
        "LORA" => &["use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias", "lora_bias"],
        "ADALORA" => &["fan_in_fan_out", "bias"],
        other => return Err(format!("expected peft_type LORA or ADALORA, found \"{other:.80}\"")),
    };
    if let Some(key) = strange.iter().find(|key| is_set(key)) {
        return Err(format!("an adapter with {key} = {:.80} cannot be merged here", config[*key].to_string()));
    }
    let rank_key = if kind == "ADALORA" { "init_r" } else { "r" };
    let (alpha, rank) = (number("lora_alpha")?, number(rank_key)?);
    if rank.is_nan() || rank < 1.0 {
        return Err(format!("expected {rank_key} to be at least 1, found {rank}"));
    }
    let is_root = kind == "LORA" && config["use_rslora"].as_bool().unwrap_or_default();
    Ok(match kind.as_str() {
        // As PEFT has it.
        "ADALORA" => alpha / (rank + 1e-5),
        _ if is_root => alpha / rank.sqrt(),
        _ => alpha / rank,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = [
        "base_model.model.a.b.lora_A.weight",
        "base_model.model.a.b.lora_B.default.weight",
        "head.modules_to_save.bias",
    ];

    fn lora(more: &str) -> String {
        format!(r#"{{"peft_type":"LORA","r":4,"lora_alpha":8{more}}}"#)
    }

    fn refused(config: &str, names: &[&str]) -> String {
        Adapter::read(config.as_bytes(), names.iter().copied()).expect_err(config)
    }

    #[test]
    fn both_kinds_are_read() {
        let config = lora("");
        let read = Adapter::read(config.as_bytes(), NAMES).expect("an adapter");
        assert_eq!((read.scale, read.replaced["head.bias"]), (2.0, NAMES[2]));
        assert_eq!(read.layers["a.b"], Update { a: NAMES[0], b: NAMES[1], e: None });
        let root = Adapter::read(lora(r#","use_rslora":true"#).as_bytes(), NAMES).expect("an adapter");
        assert_eq!(root.scale, 4.0);
        let ada = br#"{"peft_type":"adalora","init_r":4,"lora_alpha":8,"r":0}"#;
        let read = Adapter::read(ada, ["x.lora_A", "x.lora_B", "x.lora_E"]).expect("an adapter");
        assert!((read.scale - 2.0).abs() < 1e-4 && read.layers["x"].e == Some("x.lora_E"));
    }

    #[test]
    fn what_is_no_adapter_is_refused_in_words() {
        assert!(refused("{", &NAMES).contains("not JSON"));
        assert!(refused("[]", &NAMES).contains("found \"\""));
        assert!(refused(&lora(r#","use_dora":true"#), &NAMES).contains("use_dora = true"));
        assert!(refused(r#"{"peft_type":"LORA","r":0,"lora_alpha":8}"#, &NAMES).contains("at least 1, found 0"));
        assert!(refused(r#"{"peft_type":"ADALORA","init_r":-1e-5,"lora_alpha":8}"#, &NAMES).contains("init_r"));
        assert!(refused(r#"{"peft_type":"LORA","r":4}"#, &NAMES).contains("lora_alpha to be a number, found null"));
        assert!(refused(&lora(""), &["head.bias"]).contains("holds no adapter"));
        assert!(refused(&lora(""), &["a.lora_A"]).contains("no lora_B"));
        assert!(refused(&lora(""), &["a.lora_A", "a.lora_magnitude_vector"]).contains("lora_magnitude_vector"));
        assert!(refused(&lora(""), &["a.lora_A", "a.default.lora_A", "a.lora_B"]).contains("mean the same"));
    }
}
