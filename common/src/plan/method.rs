//! A cell's method with its hyper-parameters, all explicit.

use serde::{Deserialize, Serialize};

use crate::spec::{Backbone, DatasetName, Method, MethodSpecs, VlmSpec, Votes, is_target};

/// A method and its hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum MethodSettings {
    /// Every parameter trains.
    Full,
    /// Low-rank adapters and the head train.
    Lora(LoraSettings),
    /// Low-rank adapters of changing rank and the head train.
    AdaLora(AdaLoraSettings),
    /// Low-rank adapters beside 4-bit layers and the head train.
    QLora(QLoraSettings),
    /// Biases and the head train.
    BitFit,
    /// The nearest description.
    #[serde(rename = "zero-shot")]
    ZeroShot(ZeroShotSettings),
    /// The nearest images.
    Knn(KnnSettings),
    /// A linear layer on frozen features.
    #[serde(rename = "linear-probe")]
    LinearProbe(LinearProbeSettings),
    /// An answer in words.
    #[serde(rename = "vlm-prompt")]
    VlmPrompt(VlmPromptSettings),
    /// The likeliest answer.
    #[serde(rename = "vlm-score")]
    VlmScore(VlmScoreSettings),
}

/// Zero-shot classification's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShotSettings {
    /// Sentences with `{}` for a class's name.
    pub templates: Vec<String>,
}

/// Nearest neighbours'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnSettings {
    /// Neighbours.
    pub k: u32,
    /// Temperature of the softmax that weighs votes; without it all votes weigh the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// The linear probe's; see [`crate::spec::LinearProbeSpec`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearProbeSettings {
    /// Learning rates that are tried, per 256 images of a batch.
    pub rates: Vec<f64>,
    /// Images per step.
    pub batch: u32,
    /// Steps.
    pub steps: u32,
    /// Share of each class's training images that decides between the rates.
    pub held_back: f64,
}

/// Those of asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlmPromptSettings {
    /// The question, with `{}` for the list of classes.
    pub prompt: String,
    /// Most tokens of an answer.
    pub new_tokens: u32,
}

/// Those of scoring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlmScoreSettings {
    /// The question, with `{}` for the list of classes.
    pub prompt: String,
}

/// LoRA's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSettings {
    /// Rank of the update.
    pub rank: u32,
    /// The update is scaled by alpha / rank.
    pub alpha: f64,
    /// Dropout on the adapter's input.
    pub dropout: f64,
    /// Ends of the names of the adapted linear layers.
    pub targets: Vec<String>,
    /// The update is scaled by alpha / √rank instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rslora: bool,
}

/// AdaLoRA's; see [`crate::spec::AdaLoraSpec`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaLoraSettings {
    /// Rank at the start.
    pub init_rank: u32,
    /// Rank at the end, on average.
    pub target_rank: u32,
    /// The update is scaled by alpha / (init_rank + 1e-5).
    pub alpha: f64,
    /// Dropout on the adapter's input.
    pub dropout: f64,
    /// Ends of the names of the adapted linear layers.
    pub targets: Vec<String>,
    /// First steps, at full rank.
    pub tinit: u32,
    /// Last steps, at ranks that no longer change.
    pub tfinal: u32,
    /// Steps between two allotments.
    pub delta_t: u32,
    /// Decay of the sensitivity's moving average.
    pub beta1: f64,
    /// Decay of the uncertainty's moving average.
    pub beta2: f64,
    /// Weight of the orthogonal term in the loss.
    pub orthogonal_weight: f64,
}

/// QLoRA's: LoRA's, and how the frozen layers are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QLoraSettings {
    /// Rank of the update.
    pub rank: u32,
    /// The update is scaled by alpha / rank.
    pub alpha: f64,
    /// Dropout on the adapter's input.
    pub dropout: f64,
    /// Ends of the names of the adapted linear layers.
    pub targets: Vec<String>,
    /// The update is scaled by alpha / √rank instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rslora: bool,
    /// Values that share a scale.
    pub block: u32,
    /// The scales are quantised too.
    pub double_quantization: bool,
}

impl QLoraSettings {
    /// What it has in common with LoRA.
    pub fn lora(&self) -> LoraSettings {
        let Self { rank, alpha, dropout, targets, rslora, .. } = self.clone();
        LoraSettings { rank, alpha, dropout, targets, rslora }
    }
}

impl MethodSettings {
    /// The method without its hyper-parameters.
    pub fn method(&self) -> Method {
        match self {
            Self::Full => Method::Full,
            Self::Lora(_) => Method::Lora,
            Self::AdaLora(_) => Method::AdaLora,
            Self::QLora(_) => Method::QLora,
            Self::BitFit => Method::BitFit,
            Self::ZeroShot(_) => Method::ZeroShot,
            Self::Knn(_) => Method::Knn,
            Self::LinearProbe(_) => Method::LinearProbe,
            Self::VlmPrompt(_) => Method::VlmPrompt,
            Self::VlmScore(_) => Method::VlmScore,
        }
    }

    /// The layers that get an adapter, for methods that have any.
    pub fn targets(&self) -> Option<&[String]> {
        match self {
            Self::Lora(lora) => Some(&lora.targets),
            Self::AdaLora(ada) => Some(&ada.targets),
            Self::QLora(qlora) => Some(&qlora.targets),
            _ => None,
        }
    }

    /// The settings of a method on a backbone.
    ///
    /// # Errors
    /// In words: why it cannot run there.
    pub fn resolve(
        method: Method,
        backbone: Backbone,
        dataset: &DatasetName,
        specs: &MethodSpecs,
    ) -> Result<Self, String> {
        if let Some(why) = method.mismatch(backbone) {
            return Err(why);
        }
        let prompt = |spec: &VlmSpec| spec.prompt.clone().unwrap_or_else(|| dataset.question().to_owned());
        Ok(match method {
            Method::ZeroShot => {
                let own = || dataset.templates().iter().map(|t| (*t).to_owned()).collect();
                MethodSettings::ZeroShot(ZeroShotSettings {
                    templates: specs.zero_shot.templates.clone().unwrap_or_else(own),
                })
            }
            Method::Knn => MethodSettings::Knn(KnnSettings {
                k: specs.knn.k,
                temperature: (specs.knn.votes == Votes::Softmax).then_some(specs.knn.temperature),
            }),
            Method::LinearProbe => {
                let probe = &specs.linear_probe;
                MethodSettings::LinearProbe(LinearProbeSettings {
                    rates: probe.rates.clone(),
                    batch: probe.batch,
                    steps: probe.steps,
                    held_back: probe.held_back,
                })
            }
            Method::VlmPrompt => MethodSettings::VlmPrompt(VlmPromptSettings {
                prompt: prompt(&specs.vlm_prompt),
                new_tokens: specs.vlm_prompt.new_tokens,
            }),
            Method::VlmScore => MethodSettings::VlmScore(VlmScoreSettings { prompt: prompt(&specs.vlm_score) }),
            Method::Full => MethodSettings::Full,
            Method::BitFit => MethodSettings::BitFit,
            Method::Lora => {
                let lora = &specs.lora;
                MethodSettings::Lora(LoraSettings {
                    rank: lora.rank,
                    alpha: lora.alpha,
                    dropout: lora.dropout.unwrap_or(backbone.lora_dropout()),
                    targets: targets(method, backbone, lora.targets.as_deref())?,
                    rslora: lora.rslora,
                })
            }
            Method::AdaLora => {
                let ada = &specs.adalora;
                MethodSettings::AdaLora(AdaLoraSettings {
                    init_rank: ada.init_rank,
                    target_rank: ada.target_rank,
                    alpha: ada.alpha,
                    dropout: ada.dropout,
                    targets: targets(method, backbone, ada.targets.as_deref())?,
                    tinit: ada.tinit,
                    tfinal: ada.tfinal,
                    delta_t: ada.delta_t,
                    beta1: ada.beta1,
                    beta2: ada.beta2,
                    orthogonal_weight: ada.orthogonal_weight,
                })
            }
            Method::QLora => {
                let qlora = &specs.qlora;
                MethodSettings::QLora(QLoraSettings {
                    rank: qlora.rank,
                    alpha: qlora.alpha,
                    dropout: qlora.dropout.unwrap_or(backbone.lora_dropout()),
                    targets: targets(method, backbone, qlora.targets.as_deref())?,
                    rslora: qlora.rslora,
                    block: qlora.block,
                    double_quantization: qlora.double_quantization,
                })
            }
        })
    }
}

/// The campaign's targets, or the backbone's own; each must name a layer.
fn targets(method: Method, backbone: Backbone, wanted: Option<&[String]>) -> Result<Vec<String>, String> {
    let mut targets = match wanted {
        Some(targets) => targets.to_vec(),
        None => backbone.lora_targets().iter().map(|t| (*t).to_owned()).collect(),
    };
    let known = backbone.linear_layers();
    // A target may say less than the layer's name or more: `qkv`, `attn.qkv`, `blocks.0.attn.qkv`.
    let names_one = |target: &String| known.iter().any(|layer| is_target(target, layer) || is_target(layer, target));
    if let Some(target) = targets.iter().find(|t| !names_one(t)) {
        return Err(format!(
            "{} target \"{target}\" matches no linear layer of {}; it has {}",
            method.label(),
            backbone.name(),
            known.join(", ")
        ));
    }
    // Order and repetition mean nothing, so they must not change the identity.
    targets.sort();
    targets.dedup();
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_is_the_campaigns_or_the_backbones() {
        let of = |method, backbone, text: &str| {
            let specs: MethodSpecs = toml::from_str(text).expect("specs");
            match MethodSettings::resolve(method, backbone, &DatasetName::Dtd, &specs).expect("settings") {
                MethodSettings::Lora(LoraSettings { dropout, .. })
                | MethodSettings::QLora(QLoraSettings { dropout, .. }) => dropout,
                other => panic!("{other:?}"),
            }
        };
        for method in [Method::Lora, Method::QLora] {
            assert_eq!(of(method, Backbone::VimSmall, ""), 0.1);
            assert_eq!(of(method, Backbone::MambaVisionT, ""), 0.0);
            let text = format!("[{}]\ndropout = 0.0", method.name());
            assert_eq!(of(method, Backbone::VimSmall, &text), 0.0);
        }
    }
}
