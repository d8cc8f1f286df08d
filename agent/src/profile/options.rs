//! What `fleet-agent profile` is asked, as it is typed, and the request that it becomes.

use std::path::PathBuf;

use clap::Args;
use fleet_common::profile::{Request, cells};
use fleet_common::spec::{AdaptiveSpec, Backbone, Checkpointing, Method, PlannedSpec, Precision};
use fleet_common::units::Bytes;
use fleet_common::worker::JobDevice;

/// What to profile, and how to show it.
#[derive(Debug, Args)]
pub struct Options {
    /// Which backbone, such as vit_small_patch16_224
    #[arg(value_name = "BACKBONE", value_parser = backbone)]
    pub backbone: Backbone,
    /// Fine-tuning method, with the settings that a campaign file has by default
    #[arg(long, value_name = "METHOD", default_value = "full", value_parser = method)]
    pub method: Method,
    /// Images per step [default: the backbone's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Equal parts in which a batch goes through the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub micro_batches: u32,
    /// Side of the square images in pixels [default: the backbone's]
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<u32>,
    /// Classes of the head
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub classes: u32,
    /// In what the large products compute: fp32 or bf16
    #[arg(long, value_name = "PRECISION", default_value = "fp32", value_parser = precision)]
    pub precision: Precision,
    /// Strategies to run a step under [default: none,static, and with a budget adaptive,planned as well]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = checkpointing)]
    pub checkpointing: Vec<Checkpointing>,
    /// Cap on the step's memory, enforced, such as 500MiB
    #[arg(long, value_name = "SIZE")]
    pub budget: Option<Bytes>,
    /// Share of the budget from which on adaptive checkpointing runs blocks again
    #[arg(long, value_name = "SHARE", default_value_t = AdaptiveSpec::default().ratio, value_parser = ratio)]
    pub adaptive_ratio: f64,
    /// Share of the budget that planned checkpointing leaves free
    #[arg(long, value_name = "SHARE", default_value_t = PlannedSpec::default().margin, value_parser = margin)]
    pub planned_margin: f64,
    /// Steps to time under each strategy, after one that is not
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// The device: cpu, or cuda:0 and so on [default: the first GPU, or the CPU where there is none]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Threads for libtorch [default: all CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Also draw memory over the steps, a panel per strategy
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print JSON (schema fleet.profile/1) instead of text
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The request for a device with so many threads.
    ///
    /// # Errors
    /// Options that are right by themselves and do not go together: what was expected, what was found, what to do.
    pub fn request(&self, device: JobDevice, threads: u32) -> Result<Request, String> {
        let backbone = self.backbone;
        let (image_size, step) = (self.image_size.unwrap_or(backbone.image_size()), backbone.size_step());
        if image_size == 0 || !image_size.is_multiple_of(step) {
            return Err(format!(
                "--image-size: expected a multiple of {step} for {}, found {image_size}",
                backbone.name()
            ));
        }
        let budget_bytes = self.budget.map(|b| b.0);
        if budget_bytes == Some(0) {
            return Err("--budget: expected a size such as 500MiB, found 0; leave it out for no cap".to_owned());
        }
        let cells = cells(&self.campaign(image_size, &self.strategies()?), self.classes)?;
        Ok(Request { cells, steps: self.steps, device, threads })
    }

    /// What is asked as a campaign file asks for it, so that everything that is not said is the same there.
    fn campaign(&self, image_size: u32, strategies: &[Checkpointing]) -> String {
        let strategies: Vec<String> = strategies.iter().map(|s| format!("{:?}", s.name())).collect();
        let budget = self.budget.map_or_else(|| "\"unlimited\"".to_owned(), |b| b.0.to_string());
        let batch = self.batch.map(|n| format!("batch = {n}\n")).unwrap_or_default();
        format!(
            "name = \"profile\"\nbudget = {budget}\n[matrix]\nmethod = {:?}\nbackbone = {:?}\ncheckpointing = [{}]\n\
             dataset = \"textures\"\n[train]\n{batch}image_size = {image_size}\nmicro_batches = {}\nprecision = {:?}\n\
             [checkpointing.adaptive]\nratio = {:?}\n[checkpointing.planned]\nmargin = {:?}\n",
            self.method.name(),
            self.backbone.name(),
            strategies.join(", "),
            self.micro_batches,
            self.precision.name(),
            self.adaptive_ratio,
            self.planned_margin,
        )
    }

    /// The strategies that were named, or those that can be run.
    fn strategies(&self) -> Result<Vec<Checkpointing>, String> {
        let named = &self.checkpointing;
        if named.is_empty() {
            let can = |c: &Checkpointing| self.budget.is_some() || !c.needs_budget();
            return Ok(Checkpointing::ALL.into_iter().filter(can).collect());
        }
        if let Some(strategy) = named.iter().find(|c| c.needs_budget() && self.budget.is_none()) {
            let name = strategy.name();
            return Err(format!(
                "--checkpointing: {name} keeps as many activations as the budget allows, and there is none; add one such \
                 as --budget 500MiB, or leave {name} out"
            ));
        }
        if let Some((_, twice)) = named.iter().enumerate().find(|(i, c)| named[..*i].contains(c)) {
            return Err(format!("--checkpointing: expected each strategy once, found {} twice", twice.name()));
        }
        Ok(named.clone())
    }
}

fn backbone(name: &str) -> Result<Backbone, String> {
    Backbone::try_from(name.to_owned())
}

fn method(name: &str) -> Result<Method, String> {
    Method::try_from(name.to_owned())
}

fn checkpointing(name: &str) -> Result<Checkpointing, String> {
    Checkpointing::try_from(name.to_owned())
}

fn precision(name: &str) -> Result<Precision, String> {
    let all = [Precision::Fp32, Precision::Bf16];
    let known = || format!("expected {}, found \"{name}\"", all.map(Precision::name).join(" or "));
    all.into_iter().find(|p| p.name() == name).ok_or_else(known)
}

fn ratio(text: &str) -> Result<f64, String> {
    number(text, "a number above 0 and at most 1", |x| x > 0.0 && x <= 1.0)
}

fn margin(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 to 0.5", |x| (0.0..=0.5).contains(&x))
}

fn number(text: &str, expected: &str, good: impl Fn(f64) -> bool) -> Result<f64, String> {
    text.parse().ok().filter(|x| good(*x)).ok_or_else(|| format!("expected {expected}, found \"{text}\""))
}
