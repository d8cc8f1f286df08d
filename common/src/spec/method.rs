//! Methods and their hyper-parameters: of fine-tuning, and of classifying without it.

use serde::{Deserialize, Serialize};

use super::error::unknown;
use super::{Backbone, Gives};

/// A method, by the name that tables show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Method {
    /// Every parameter trains.
    Full,
    /// Low-rank adapters beside frozen linear layers (Hu et al., arXiv 2106.09685), and the head.
    Lora,
    /// Low-rank adapters whose ranks are allotted by importance while training (Zhang et al., arXiv 2303.10512), and
    /// the head.
    AdaLora,
    /// Low-rank adapters beside linear layers frozen in 4 bits (Dettmers et al., arXiv 2305.14314), and the head.
    QLora,
    /// Biases and the head train (Ben Zaken et al., arXiv 2106.10199).
    BitFit,
    /// The class whose description is the nearest to the image (Radford et al., arXiv 2103.00020).
    ZeroShot,
    /// The class of the nearest training images, by frozen features.
    Knn,
    /// A linear layer trained on frozen features.
    LinearProbe,
    /// A model of images and text is asked, and its answer read.
    VlmPrompt,
    /// The class whose name a model of images and text finds the likeliest answer.
    VlmScore,
}

impl Method {
    /// Every method, in the order of tables.
    pub const ALL: [Self; 10] = [
        Self::Full,
        Self::Lora,
        Self::AdaLora,
        Self::QLora,
        Self::BitFit,
        Self::ZeroShot,
        Self::Knn,
        Self::LinearProbe,
        Self::VlmPrompt,
        Self::VlmScore,
    ];

    /// Whether it fine-tunes a backbone; the others leave it as it is.
    pub const fn trains(self) -> bool {
        matches!(self, Self::Full | Self::Lora | Self::AdaLora | Self::QLora | Self::BitFit)
    }

    /// Whether trials of the same cell can differ in what they compute: a probe begins somewhere, and is shown images in
    /// some order.
    pub const fn is_random(self) -> bool {
        self.trains() || matches!(self, Self::LinearProbe)
    }

    /// Why it cannot be used with a backbone.
    pub fn mismatch(self, backbone: Backbone) -> Option<String> {
        let (method, name) = (self.name(), backbone.name());
        let gives = match backbone.foundation() {
            None if self.trains() => return None,
            None => {
                return Some(format!(
                    "{method} leaves its model as it is published, and {name} is there to be trained"
                ));
            }
            Some(_) if self.trains() => {
                return Some(format!("{name} is not trained here; {method} is for backbones that are"));
            }
            Some(foundation) => foundation.gives(),
        };
        let fits = match self {
            Self::ZeroShot => gives == Gives::Embeddings,
            Self::Knn | Self::LinearProbe => gives != Gives::Answers,
            _ => gives == Gives::Answers,
        };
        let what = match gives {
            Gives::Embeddings => "embeddings of images and texts: zero-shot, knn or linear-probe",
            Gives::Features => "features of images: knn or linear-probe",
            Gives::Answers => "answers in words: vlm-prompt or vlm-score",
        };
        (!fits).then(|| format!("{method} does not fit {name}, which gives {what}"))
    }

    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora => "lora",
            Self::AdaLora => "adalora",
            Self::QLora => "qlora",
            Self::BitFit => "bitfit",
            Self::ZeroShot => "zero-shot",
            Self::Knn => "knn",
            Self::LinearProbe => "linear-probe",
            Self::VlmPrompt => "vlm-prompt",
            Self::VlmScore => "vlm-score",
        }
    }

    /// The name in sentences.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full fine-tuning",
            Self::Lora => "LoRA",
            Self::AdaLora => "AdaLoRA",
            Self::QLora => "QLoRA",
            Self::BitFit => "BitFit",
            Self::ZeroShot => "zero-shot classification",
            Self::Knn => "nearest neighbours",
            Self::LinearProbe => "a linear probe",
            Self::VlmPrompt => "asking",
            Self::VlmScore => "scoring class names",
        }
    }

    /// All names, for messages.
    pub fn names() -> Vec<&'static str> {
        Self::ALL.map(Self::name).to_vec()
    }

    /// The protocol's learning rate of fine-tuning (arXiv 2607.02158's public code): 1e-5 for all parameters, 5e-4 for the
    /// other methods.
    pub const fn default_learning_rate(self) -> f64 {
        match self {
            Self::Full => 1e-5,
            _ => 5e-4,
        }
    }
}

impl TryFrom<String> for Method {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| unknown("method", &name, &Self::names()))
    }
}

impl From<Method> for &'static str {
    fn from(method: Method) -> Self {
        method.name()
    }
}

/// Hyper-parameters of the methods: the file's `[method.NAME]` sections.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MethodSpecs {
    /// `[method.lora]`.
    pub lora: LoraSpec,
    /// `[method.adalora]`.
    pub adalora: AdaLoraSpec,
    /// `[method.qlora]`.
    pub qlora: QLoraSpec,
    /// `[method.zero-shot]`.
    #[serde(rename = "zero-shot")]
    pub zero_shot: ZeroShotSpec,
    /// `[method.knn]`.
    pub knn: KnnSpec,
    /// `[method.linear-probe]`.
    #[serde(rename = "linear-probe")]
    pub linear_probe: LinearProbeSpec,
    /// `[method.vlm-prompt]`.
    #[serde(rename = "vlm-prompt")]
    pub vlm_prompt: VlmSpec,
    /// `[method.vlm-score]`.
    #[serde(rename = "vlm-score")]
    pub vlm_score: VlmSpec,
}

/// `[method.lora]`. The defaults are the protocol's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSpec {
    /// Rank r of the update B·A.
    #[serde(deserialize_with = "positive")]
    pub rank: u32,
    /// The update is scaled by alpha / rank.
    #[serde(deserialize_with = "positive_number")]
    pub alpha: f64,
    /// Dropout on the adapter's input, in [0, 1); none given means the backbone's own choice
    /// ([`super::Backbone::lora_dropout`]).
    #[serde(deserialize_with = "some_probability")]
    pub dropout: Option<f64>,
    /// Ends of the names of the linear layers that get an adapter, such as `qkv` or `attn.proj`; none named means the
    /// backbone's own choice ([`super::Backbone::lora_targets`]).
    pub targets: Option<Vec<String>>,
    /// The update is scaled by alpha / √rank instead (Kalajdzievski, arXiv 2312.03732).
    pub rslora: bool,
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: None, targets: None, rslora: false }
    }
}

/// `[method.adalora]`. The defaults are the protocol's, where it says nothing HF PEFT's, and LoRA's alpha.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaLoraSpec {
    /// Rank that every adapter starts with.
    #[serde(deserialize_with = "positive")]
    pub init_rank: u32,
    /// Rank that remains on average.
    #[serde(deserialize_with = "positive")]
    pub target_rank: u32,
    /// The update is scaled by alpha / init_rank.
    #[serde(deserialize_with = "positive_number")]
    pub alpha: f64,
    /// Dropout on the adapter's input, in [0, 1).
    #[serde(deserialize_with = "probability")]
    pub dropout: f64,
    /// As in [`LoraSpec::targets`].
    pub targets: Option<Vec<String>>,
    /// First steps, at full rank.
    pub tinit: u32,
    /// Last steps, at ranks that no longer change.
    pub tfinal: u32,
    /// Steps between two allotments.
    #[serde(deserialize_with = "positive")]
    pub delta_t: u32,
    /// Decay of the moving average of a weight's sensitivity, in [0, 1).
    #[serde(deserialize_with = "probability")]
    pub beta1: f64,
    /// Decay of the moving average of that sensitivity's uncertainty, in [0, 1).
    #[serde(deserialize_with = "probability")]
    pub beta2: f64,
    /// Weight in the loss of how far A and B are from orthogonal; 0 leaves it out, as HF PEFT does for models without a
    /// task type.
    #[serde(deserialize_with = "number_from_zero")]
    pub orthogonal_weight: f64,
}

impl Default for AdaLoraSpec {
    fn default() -> Self {
        Self {
            init_rank: 12,
            target_rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: None,
            tinit: 200,
            tfinal: 1000,
            delta_t: 10,
            beta1: 0.85,
            beta2: 0.85,
            orthogonal_weight: 0.5,
        }
    }
}

/// `[method.qlora]`. The defaults are the protocol's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QLoraSpec {
    /// As in [`LoraSpec`].
    #[serde(deserialize_with = "positive")]
    pub rank: u32,
    /// As in [`LoraSpec`].
    #[serde(deserialize_with = "positive_number")]
    pub alpha: f64,
    /// As in [`LoraSpec`].
    #[serde(deserialize_with = "some_probability")]
    pub dropout: Option<f64>,
    /// As in [`LoraSpec::targets`]. All linear layers but the head are quantised, also those without an adapter.
    pub targets: Option<Vec<String>>,
    /// As in [`LoraSpec`].
    pub rslora: bool,
    /// Values that share a scale; a positive even number.
    #[serde(deserialize_with = "block_size")]
    pub block: u32,
    /// The scales are quantised too, to 8 bits.
    pub double_quantization: bool,
}

impl Default for QLoraSpec {
    fn default() -> Self {
        let LoraSpec { rank, alpha, dropout, targets, rslora } = LoraSpec::default();
        Self { rank, alpha, dropout, targets, rslora, block: 64, double_quantization: false }
    }
}

/// `[method.zero-shot]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZeroShotSpec {
    /// Sentences that describe an image of a class, with `{}` for its name; none named means the data set's own
    /// ([`super::DatasetName::templates`]).
    #[serde(deserialize_with = "templates")]
    pub templates: Option<Vec<String>>,
}

/// `[method.knn]`. The defaults are DINO's, the study's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KnnSpec {
    /// Neighbours.
    #[serde(deserialize_with = "positive")]
    pub k: u32,
    /// What a neighbour's vote weighs.
    pub votes: Votes,
    /// The softmax's temperature.
    #[serde(deserialize_with = "positive_number")]
    pub temperature: f64,
}

/// What a neighbour's vote weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Votes {
    /// exp(cosine similarity / temperature).
    #[default]
    Softmax,
    /// The same as any other's.
    Equal,
}

impl Default for KnnSpec {
    fn default() -> Self {
        Self { k: 20, votes: Votes::Softmax, temperature: 0.07 }
    }
}

/// `[method.linear-probe]`. The defaults are DINOv2's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinearProbeSpec {
    /// Learning rates that are tried at once, per 256 images of a batch; the best on images that are held back counts.
    #[serde(deserialize_with = "rates")]
    pub rates: Vec<f64>,
    /// Images per step.
    #[serde(deserialize_with = "positive")]
    pub batch: u32,
    /// Steps.
    #[serde(deserialize_with = "positive")]
    pub steps: u32,
    /// Share of each class's training images that is held back, above 0 and below 1.
    #[serde(deserialize_with = "share")]
    pub held_back: f64,
}

impl Default for LinearProbeSpec {
    fn default() -> Self {
        let rates = vec![1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1];
        Self { rates, batch: 128, steps: 12_500, held_back: 0.1 }
    }
}

/// `[method.vlm-prompt]` and `[method.vlm-score]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VlmSpec {
    /// The question, with `{}` for the list of classes; none means the data set's own
    /// ([`super::DatasetName::question`]).
    pub prompt: Option<String>,
    /// Most tokens of an answer that is read.
    #[serde(deserialize_with = "positive")]
    pub new_tokens: u32,
}

impl Default for VlmSpec {
    fn default() -> Self {
        Self { prompt: None, new_tokens: 16 }
    }
}

fn templates<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let templates = Vec::<String>::deserialize(deserializer)?;
    if templates.is_empty() {
        return Err(serde::de::Error::custom("expected at least one template; leave them out for the data set's own"));
    }
    match templates.iter().find(|t| t.matches("{}").count() != 1) {
        Some(wrong) => Err(serde::de::Error::custom(format!(
            "expected a template with one {{}} for the class's name, such as \"a photo of a {{}}.\", found \"{wrong}\""
        ))),
        None => Ok(Some(templates)),
    }
}

fn rates<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let rates = Vec::<f64>::deserialize(deserializer)?;
    if rates.is_empty() || rates.iter().any(|r| !(r.is_finite() && *r > 0.0)) {
        return Err(serde::de::Error::custom(format!("expected positive learning rates, found {rates:?}")));
    }
    Ok(rates)
}

fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, "a number above 0 and below 1", |x| x > 0.0 && x < 1.0)
}

fn positive<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let n = i64::deserialize(deserializer)?;
    u32::try_from(n)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| serde::de::Error::custom(format!("expected a positive whole number, found {n}")))
}

fn probability<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, "a number from 0 to below 1", |p| (0.0..1.0).contains(&p))
}

fn some_probability<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    probability(deserializer).map(Some)
}

fn positive_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, "a positive number", |x| x > 0.0)
}

fn number_from_zero<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked(deserializer, "a number from 0", |x| x >= 0.0)
}

fn checked<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
    expected: &str,
    good: impl Fn(f64) -> bool,
) -> Result<f64, D::Error> {
    let x = f64::deserialize(deserializer)?;
    if x.is_finite() && good(x) {
        Ok(x)
    } else {
        Err(serde::de::Error::custom(format!("expected {expected}, found {x}")))
    }
}

/// Two values share a byte, so that a block of an odd number would end inside one.
fn block_size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let n = positive(deserializer)?;
    if n.is_multiple_of(2) && n <= 4096 {
        Ok(n)
    } else {
        Err(serde::de::Error::custom(format!("expected an even number up to 4096, found {n}")))
    }
}
