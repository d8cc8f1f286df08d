//! The campaign file.

use serde::{Deserialize, Serialize};

use super::{
    Axis, Backbone, Checkpointing, CheckpointingSpecs, DatasetName, Evaluate, Method, MethodSpecs, Priority, Select,
    SpecError, Train,
};
use crate::id::{CampaignName, HardwareClass};
use crate::units::Bytes;

/// Larger inputs than any backbone here was made for are a slip of the pen.
const MAX_IMAGE_SIZE: u32 = 1024;

/// Most trials of a campaign per hardware class. A fleet that ends one a minute works on so many for two weeks; a slip
/// of the pen in `repeats` asks for more.
const MAX_TRIALS: u64 = 1_000_000;

/// A campaign: the matrix, and everything that its cells share.
#[derive(Debug, Clone, PartialEq)]
pub struct Campaign {
    /// Names the campaign for all later commands. Submitting a changed file under the same name replaces what the
    /// campaign asks for; finished trials are kept and used where they still fit.
    pub name: CampaignName,
    /// Seeds; each is a dimension of the matrix.
    pub seeds: Axis<u64>,
    /// Trials per cell and hardware class, to see the run-to-run spread of time and energy.
    pub repeats: u32,
    /// Cap on each trial's memory, measured and enforced.
    pub budget: Budget,
    /// What the cap covers.
    pub budget_scope: BudgetScope,
    /// Where trials run.
    pub hardware: Hardware,
    /// Share of the fleet beside other campaigns.
    pub priority: Priority,
    /// The axes.
    pub matrix: Matrix,
    /// `[train]`.
    pub train: Train,
    /// `[evaluate]`.
    pub evaluate: Evaluate,
    /// `[method.NAME]`.
    pub method: MethodSpecs,
    /// `[checkpointing.NAME]`.
    pub checkpointing: CheckpointingSpecs,
    /// `[output]`.
    pub output: Output,
    /// `[select]`.
    pub select: Select,
}

/// `[matrix]`: the campaign is the product of these axes and the seeds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// Fine-tuning methods.
    pub method: Axis<Method>,
    /// Backbones.
    pub backbone: Axis<Backbone>,
    /// Checkpointing strategies.
    #[serde(default = "no_checkpointing")]
    pub checkpointing: Axis<Checkpointing>,
    /// Data sets.
    pub dataset: Axis<DatasetName>,
}

fn no_checkpointing() -> Axis<Checkpointing> {
    Axis::one(Checkpointing::None)
}

/// A memory cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Budget {
    /// At most this much allocator memory.
    Limit(Bytes),
    /// Whatever the device has.
    Unlimited,
}

impl Budget {
    /// The cap in bytes, if there is one.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Limit(bytes) => Some(bytes.0),
            Self::Unlimited => None,
        }
    }
}

impl Default for Budget {
    /// The study's budget.
    fn default() -> Self {
        Self::Limit(Bytes(2 << 30))
    }
}

/// What a budget covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetScope {
    /// What tensors hold, as in the study.
    #[default]
    Allocator,
    /// That and what the process takes beside it: the CUDA context, or on the CPU code and libraries.
    Process,
}

impl BudgetScope {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocator => "allocator",
            Self::Process => "process",
        }
    }
}

/// Where a campaign's trials run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hardware {
    /// Each cell once, wherever it fits.
    Any,
    /// Each cell once per hardware class: those that agents had when the campaign was submitted.
    Each,
    /// Each cell once per class of this list.
    Classes(Vec<HardwareClass>),
}

/// `[output]`: what agents keep beside the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// Keep each trial's trained weights as safetensors in the agent's `artifacts/`, adapters merged into them.
    pub weights: bool,
    /// Keep each trial's adapter in the agent's `artifacts/`, in HF PEFT's layout.
    pub adapter: bool,
}

/// The file as serde reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: CampaignName,
    #[serde(default = "first_seed")]
    seeds: Axis<u64>,
    #[serde(default = "one")]
    repeats: u32,
    #[serde(default)]
    budget: Budget,
    #[serde(default)]
    budget_scope: BudgetScope,
    #[serde(default = "any_hardware")]
    hardware: Hardware,
    #[serde(default)]
    priority: Priority,
    matrix: Matrix,
    #[serde(default)]
    train: Train,
    #[serde(default)]
    evaluate: Evaluate,
    #[serde(default)]
    method: MethodSpecs,
    #[serde(default)]
    checkpointing: CheckpointingSpecs,
    #[serde(default)]
    output: Output,
    #[serde(default)]
    select: Select,
}

/// The protocol's seed.
fn first_seed() -> Axis<u64> {
    Axis::one(42)
}

fn one() -> u32 {
    1
}

fn any_hardware() -> Hardware {
    Hardware::Any
}

impl Campaign {
    /// Parses a campaign file. `file` is its name in messages.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line, what was expected, what was found and the nearest valid name.
    pub fn parse(file: &str, text: &str) -> Result<Self, SpecError> {
        let raw: File = toml::from_str(text).map_err(|e| SpecError::new(file, text, &e))?;
        let campaign = Self {
            name: raw.name,
            seeds: raw.seeds,
            repeats: raw.repeats,
            budget: raw.budget,
            budget_scope: raw.budget_scope,
            hardware: raw.hardware,
            priority: raw.priority,
            matrix: raw.matrix,
            train: raw.train,
            evaluate: raw.evaluate,
            method: raw.method,
            checkpointing: raw.checkpointing,
            output: raw.output,
            select: raw.select,
        };
        campaign.check().map_err(|message| SpecError {
            file: file.to_owned(),
            position: None,
            message,
            excerpt: None,
        })?;
        Ok(campaign)
    }

    /// What no single value's type can say.
    fn check(&self) -> Result<(), String> {
        let train = &self.train;
        let positive = |what: &str, n: u32| if n > 0 { Ok(()) } else { Err(format!("{what} must be at least 1")) };
        positive("repeats", self.repeats)?;
        positive("[train] steps", train.steps)?;
        positive("[evaluate] batch", self.evaluate.batch)?;
        if let Some(limit) = self.evaluate.limit {
            positive("[evaluate] limit", limit)?;
        }
        if train.warm_up_steps >= train.steps {
            return Err(format!(
                "[train] warm_up_steps ({}) must be below steps ({}), or nothing is measured",
                train.warm_up_steps, train.steps
            ));
        }
        if !(train.weight_decay.is_finite() && train.weight_decay >= 0.0) {
            return Err(format!("[train] weight_decay must be a number from 0, found {}", train.weight_decay));
        }
        if let Some(rates) = &train.learning_rate {
            rates.check_names("method in [train] learning_rate:", &Method::names())?;
        }
        if let Some(batches) = &train.batch {
            batches.check_names("backbone in [train] batch:", &Backbone::names())?;
        }
        if let Some(sizes) = &train.image_size {
            sizes.check_names("backbone in [train] image_size:", &Backbone::names())?;
        }
        positive("[train] micro_batches", train.micro_batches)?;
        if train.ramp_steps > train.steps {
            return Err(format!("[train] ramp_steps ({}) must not be above steps ({})", train.ramp_steps, train.steps));
        }
        if let Some(norm) = train.clip_norm.filter(|n| !(n.is_finite() && *n > 0.0)) {
            return Err(format!("[train] clip_norm must be positive, found {norm}"));
        }
        for method in self.matrix.method.values() {
            let rate = self.learning_rate(*method);
            if !(rate.is_finite() && rate > 0.0) {
                return Err(format!("[train] learning_rate of {} must be positive, found {rate}", method.name()));
            }
        }
        for backbone in self.matrix.backbone.values() {
            let name = backbone.name();
            positive(&format!("[train] batch of {name}"), self.batch(*backbone))?;
            if !self.batch(*backbone).is_multiple_of(train.micro_batches) {
                return Err(format!(
                    "[train] batch of {name} ({}) must be a multiple of micro_batches ({})",
                    self.batch(*backbone),
                    train.micro_batches
                ));
            }
            let (size, step) = (self.image_size(*backbone), backbone.size_step());
            if size == 0 || !size.is_multiple_of(step) || size > MAX_IMAGE_SIZE {
                return Err(format!(
                    "[train] image_size of {name} must be a multiple of {step}, up to {MAX_IMAGE_SIZE}; found {size}"
                ));
            }
        }
        if let Hardware::Classes(classes) = &self.hardware
            && let Some(twice) = classes.iter().enumerate().find(|(i, c)| classes[..*i].contains(c))
        {
            return Err(format!("hardware: \"{}\" stands in this list twice", twice.1));
        }
        let trials = self.trials_per_class();
        if trials > MAX_TRIALS {
            return Err(format!(
                "this campaign asks for {trials} trials (methods × backbones × strategies × data sets × seeds × repeats); \
                 expected at most {MAX_TRIALS}. Split it into campaigns that can end"
            ));
        }
        let targets = [
            (Method::Lora, &self.method.lora.targets),
            (Method::AdaLora, &self.method.adalora.targets),
            (Method::QLora, &self.method.qlora.targets),
        ];
        if let Some((method, _)) = targets.iter().find(|(_, t)| t.as_ref().is_some_and(Vec::is_empty)) {
            return Err(format!(
                "[method.{}] targets is empty; leave it out for the backbone's default targets",
                method.name()
            ));
        }
        if self.matrix.method.values().contains(&Method::AdaLora) {
            self.check_adalora()?;
        }
        Ok(())
    }

    /// AdaLoRA's schedule must leave steps between its beginning and its end, as HF PEFT demands.
    fn check_adalora(&self) -> Result<(), String> {
        let (ada, steps) = (&self.method.adalora, self.train.steps);
        if ada.target_rank > ada.init_rank {
            return Err(format!(
                "[method.adalora] target_rank ({}) must not be above init_rank ({})",
                ada.target_rank, ada.init_rank
            ));
        }
        if u64::from(ada.tinit) + u64::from(ada.tfinal) >= u64::from(steps) {
            return Err(format!(
                "[method.adalora] tinit ({}) + tfinal ({}) must be below [train] steps ({steps}): ranks are allotted in the \
                 steps between. Name smaller ones, such as tinit = {} and tfinal = {}",
                ada.tinit,
                ada.tfinal,
                steps / 10,
                steps / 4
            ));
        }
        Ok(())
    }

    /// Trials for each hardware class: the product of the axes, seeds and repeats.
    fn trials_per_class(&self) -> u64 {
        let m = &self.matrix;
        [m.method.values().len(), m.backbone.values().len(), m.checkpointing.values().len(), m.dataset.values().len()]
            .into_iter()
            .chain([self.seeds.values().len()])
            .fold(u64::from(self.repeats), |product, n| product.saturating_mul(n as u64))
    }

    /// The learning rate of a method: the file's, else the protocol's.
    pub fn learning_rate(&self, method: Method) -> f64 {
        let from_file = self.train.learning_rate.as_ref().and_then(|rates| rates.get(method.name()));
        from_file.unwrap_or_else(|| method.default_learning_rate())
    }

    /// The side of a backbone's input: the file's, else the backbone's own.
    pub fn image_size(&self, backbone: Backbone) -> u32 {
        let from_file = self.train.image_size.as_ref().and_then(|sizes| sizes.get(backbone.name()));
        from_file.unwrap_or_else(|| backbone.image_size())
    }

    /// The training batch of a backbone: the file's, else the protocol's.
    pub fn batch(&self, backbone: Backbone) -> u32 {
        let from_file = self.train.batch.as_ref().and_then(|batches| batches.get(backbone.name()));
        from_file.unwrap_or_else(|| backbone.default_batch())
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = toml::Value::deserialize(deserializer)?;
        match &text {
            toml::Value::String(s) if s == "unlimited" => Ok(Self::Unlimited),
            toml::Value::String(s) => s
                .parse()
                .map(Self::Limit)
                .map_err(|e: String| serde::de::Error::custom(format!("{e} (or \"unlimited\")"))),
            toml::Value::Integer(n) if *n >= 0 => Ok(Self::Limit(Bytes(n.unsigned_abs()))),
            other => Err(serde::de::Error::custom(format!(
                "expected a size such as \"2GiB\", or \"unlimited\", found {other}"
            ))),
        }
        .and_then(|budget| match budget {
            Self::Limit(Bytes(0)) => {
                Err(serde::de::Error::custom("a budget of 0 holds nothing; say \"unlimited\" for no cap"))
            }
            other => Ok(other),
        })
    }
}

impl<'de> Deserialize<'de> for Hardware {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let wrong = |found: &dyn std::fmt::Display| {
            serde::de::Error::custom(format!("expected \"any\", \"each\" or a list of hardware classes, found {found}"))
        };
        match value {
            toml::Value::String(s) if s == "any" => Ok(Self::Any),
            toml::Value::String(s) if s == "each" => Ok(Self::Each),
            toml::Value::Array(list) if !list.is_empty() => list
                .into_iter()
                .map(|item| match item {
                    toml::Value::String(s) => s.parse().map_err(serde::de::Error::custom),
                    other => Err(wrong(&other)),
                })
                .collect::<Result<_, _>>()
                .map(Self::Classes),
            other => Err(wrong(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
name = "demo"
seeds = [0, 1]
repeats = 1
budget = "2GiB"
hardware = "any"

[matrix]
method = ["full", "lora", "bitfit"]
backbone = ["vit_micro"]
checkpointing = ["none", "static"]
dataset = ["textures"]

[train]
steps = 120
batch = 32
learning_rate = { full = 1e-3, default = 5e-3 }

[method.lora]
rank = 8
alpha = 16
"#;

    #[test]
    fn the_documented_example_is_read_as_meant() {
        let campaign = Campaign::parse("demo.toml", EXAMPLE).expect("a valid file");
        assert_eq!(campaign.name.as_str(), "demo");
        assert_eq!(campaign.seeds.values(), [0, 1]);
        assert_eq!(campaign.budget, Budget::Limit(Bytes(2 << 30)));
        assert_eq!(campaign.matrix.method.values(), [Method::Full, Method::Lora, Method::BitFit]);
        assert_eq!(campaign.learning_rate(Method::Full), 1e-3);
        assert_eq!(campaign.learning_rate(Method::BitFit), 5e-3);
        assert_eq!(campaign.batch(Backbone::VitMicro), 32);
        assert_eq!(campaign.method.lora.rank, 8);
        assert_eq!(campaign.method.lora.alpha, 16.0);
    }

    #[test]
    fn a_minimal_file_gets_the_protocols_defaults() {
        let text =
            "name = \"m\"\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_small_patch16_224\"\ndataset = \"dtd\"\n";
        let campaign = Campaign::parse("m.toml", text).expect("a valid file");
        assert_eq!(campaign.seeds.values(), [42]);
        assert_eq!(campaign.learning_rate(Method::Full), 1e-5);
        assert_eq!(campaign.learning_rate(Method::Lora), 5e-4);
        assert_eq!(campaign.train.steps, 7820);
        assert_eq!(campaign.evaluate.batch, 64);
        assert_eq!(campaign.matrix.checkpointing.values(), [Checkpointing::None]);
    }

    /// Replaces one line of the example and returns the message.
    fn broken(line: &str, with: &str) -> String {
        assert!(EXAMPLE.contains(line), "{line}");
        Campaign::parse("c.toml", &EXAMPLE.replace(line, with)).expect_err(with).to_string()
    }

    #[test]
    fn every_mistake_says_where_and_what_would_be_right() {
        let cases = [
            ("steps = 120", "stpes = 120", &["c.toml:15:1", "did you mean \"steps\""][..]),
            ("\"lora\", ", "\"lroa\", ", &["c.toml:9:", "unknown method \"lroa\"", "did you mean \"lora\""]),
            ("[\"vit_micro\"]", "[\"vit_mikro\"]", &["c.toml:10:", "did you mean \"vit_micro\""]),
            ("[\"textures\"]", "[\"cifar10\"]", &["c.toml:12:", "did you mean \"cifar100\"", "./cifar10"]),
            ("[\"none\", \"static\"]", "[]", &["c.toml:11:", "at least one value"]),
            ("[0, 1]", "[1, 1]", &["c.toml:3:", "1 stands in this list twice"]),
            ("[0, 1]", "[-1]", &["c.toml:3:"]),
            ("\"2GiB\"", "\"2 gigs\"", &["c.toml:5:", "2GiB", "\"unlimited\"", "2 gigs"]),
            ("\"2GiB\"", "0", &["c.toml:5:", "unlimited"]),
            ("\"any\"", "\"some\"", &["c.toml:6:", "\"each\"", "some"]),
            ("rank = 8", "rank = 0", &["c.toml:20:", "positive whole number", "0"]),
            ("alpha = 16", "alpha = -1", &["c.toml:21:", "a positive number, found -1"]),
            ("batch = 32", "batch = { vit_mirco = 8, default = 32 }", &["did you mean \"vit_micro\""]),
            ("full = 1e-3, ", "fulll = 1e-3, ", &["did you mean \"full\""]),
            ("steps = 120", "steps = 2", &["warm_up_steps (2) must be below steps (2)"]),
            (
                "batch = 32",
                "batch = 32\nmicro_batches = 5",
                &["batch of vit_micro (32) must be a multiple of micro_batches (5)"],
            ),
            ("batch = 32", "batch = 32\nimage_size = 60", &["must be a multiple of 8", "60"]),
            ("batch = 32", "batch = 32\nclip_norm = 0.0", &["clip_norm must be positive"]),
            ("batch = 32", "batch = 32\nschedule = \"cosin\"", &["c.toml:17:", "cosine"]),
            ("batch = 32", "batch = 32\nramp_steps = 200", &["ramp_steps (200) must not be above steps (120)"]),
            ("name = \"demo\"", "name = \"a/b\"", &["c.toml:2:", "a/b"]),
            ("repeats = 1", "repeats = 1000000000", &["asks for 12000000000 trials", "at most 1000000"]),
            ("\"any\"", "[\"A\", \"A\"]", &["\"A\" stands in this list twice"]),
            ("[matrix]", "[matrx]", &["c.toml:8:", "did you mean \"matrix\""]),
        ];
        for (line, with, expected) in cases {
            let message = broken(line, with);
            for part in expected {
                assert!(message.contains(part), "{with}\n  gave: {message}\n  lacks: {part}");
            }
        }
    }

    #[test]
    fn adalora_needs_steps_between_its_beginning_and_its_end() {
        let with = |adalora: &str, method: &str| {
            let text = EXAMPLE.replace("\"bitfit\"", method);
            Campaign::parse("c.toml", &format!("{text}\n[method.adalora]\n{adalora}")).map_err(|e| e.to_string())
        };
        let error = with("", "\"adalora\"").expect_err("200 + 1000 of 120 steps");
        assert!(error.contains("tinit (200) + tfinal (1000) must be below [train] steps (120)"), "{error}");
        assert!(with("", "\"bitfit\"").is_ok(), "nobody asked for AdaLoRA");
        assert!(with("tinit = 19\ntfinal = 100", "\"adalora\"").is_ok());
        assert!(with("tinit = 20\ntfinal = 100", "\"adalora\"").is_err());
        let error = with("tinit = 1\ntfinal = 1\ninit_rank = 4", "\"adalora\"").expect_err("8 of 4");
        assert!(error.contains("target_rank (8) must not be above init_rank (4)"), "{error}");
        let error = with("beta1 = 1.0", "\"bitfit\"").expect_err("never forgets nothing");
        assert!(error.contains("a number from 0 to below 1, found 1"), "{error}");
    }

    #[test]
    fn a_block_of_four_bit_values_fills_bytes() {
        let with = |block: &str| {
            Campaign::parse("c.toml", &format!("{EXAMPLE}\n[method.qlora]\nblock = {block}")).map_err(|e| e.to_string())
        };
        assert_eq!(with("128").expect("valid").method.qlora.block, 128);
        assert!(with("63").expect_err("odd").contains("an even number up to 4096, found 63"));
        assert!(with("0").expect_err("none").contains("positive"));
    }
}
