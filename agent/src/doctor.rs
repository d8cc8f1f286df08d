//! What this machine has for the work, what is missing, and how to get it. Works without libtorch: it asks the worker
//! program, and takes "it cannot be started" for an answer.

use std::path::{Path, PathBuf};

use fleet_checkpoint::ModelFolder;
use fleet_common::spec::{Backbone, DatasetName};
use fleet_common::units::Bytes;
use fleet_common::worker::Check;
use fleet_dataset::{Dataset, Split};
use serde::Serialize;

use crate::ask;
use crate::device::{self, DeviceLock, Host, LockError, Nvidia};
use crate::meter;

/// Name and version of the `--json` form.
pub const SCHEMA: &str = "fleet.doctor/1";

/// Where to look.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where data sets are.
    pub data: PathBuf,
    /// Where initial weights are.
    pub weights: Option<PathBuf>,
    /// The worker program.
    pub worker: PathBuf,
    /// Where device locks are.
    pub lock_dir: PathBuf,
    /// NVML's library, if not the usual one.
    pub nvml: Option<PathBuf>,
    /// Where meters are.
    pub meters: meter::Places,
    /// Where what is known about meters is kept.
    pub meter_cache: PathBuf,
}

/// How a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Work can be done without it; something will be missing.
    Note,
    /// No trial can run.
    Problem,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it matters.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// In the order of the report.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Whether trials can run here.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|f| f.level != Level::Problem)
    }
}

fn finding(subject: impl Into<String>, level: Level, found: impl Into<String>, remedy: Option<&str>) -> Finding {
    Finding { subject: subject.into(), level, found: found.into(), remedy: remedy.map(str::to_owned) }
}

/// Looks at everything.
pub fn examine(options: &Options) -> Diagnosis {
    let host = Host::read();
    let mut findings = vec![finding(
        "machine",
        Level::Ok,
        format!("{}: {}, {} CPUs, {} memory, {}", host.name, host.cpu, host.cpus, Bytes(host.memory_bytes), host.os),
        None,
    )];
    let nvidia = Nvidia::open(options.nvml.as_deref());
    let check = ask::check(&options.worker, None);
    findings.push(libtorch(&options.worker, &check));
    findings.push(cuda(&nvidia, check.as_ref().ok()));
    findings.extend(devices(options, &host, nvidia));
    findings.push(budget(check.as_ref().ok()));
    findings.extend(data(&options.data));
    findings.push(weights(options.weights.as_deref()));
    Diagnosis { schema: SCHEMA, findings }
}

fn libtorch(worker: &Path, check: &Result<Check, String>) -> Finding {
    match check {
        Ok(check) => finding("libtorch", Level::Ok, check.libtorch.clone(), None),
        Err(why) if worker.exists() => finding(
            "libtorch",
            Level::Problem,
            format!("{}: {why}", worker.display()),
            Some("run `make setup` and build again: binaries remember where libtorch was when they were built"),
        ),
        Err(_) => finding(
            "libtorch",
            Level::Problem,
            format!("the worker {} is not there", worker.display()),
            Some("build it with `make build`, or name it with --worker"),
        ),
    }
}

fn cuda(nvidia: &Result<Nvidia, device::NvidiaError>, check: Option<&Check>) -> Finding {
    match (nvidia, check.map(|c| &c.cuda)) {
        (Err(error), _) => finding("CUDA", Level::Note, format!("not in use: {error}"), None),
        (Ok(n), Some(Ok(gpus))) => {
            finding("CUDA", Level::Ok, format!("driver {}, libtorch sees {gpus} GPU(s)", n.driver()), None)
        }
        (Ok(n), Some(Err(why))) => finding(
            "CUDA",
            Level::Problem,
            format!("driver {}, but {why}", n.driver()),
            Some(
                "run `FLEET_TORCH=cuda make setup` on this machine and build again, or offer the CPU with --devices cpu",
            ),
        ),
        (Ok(n), None) => {
            finding("CUDA", Level::Note, format!("driver {}; libtorch could not be asked", n.driver()), None)
        }
    }
}

fn devices(options: &Options, host: &Host, nvidia: Result<Nvidia, device::NvidiaError>) -> Vec<Finding> {
    let cache = meter::Cache::open(&options.meter_cache);
    let boards = device::all(host, nvidia.as_ref(), &options.worker);
    let nvidia = nvidia.ok().map(std::sync::Arc::new);
    let left_out = boards.left_out.into_iter();
    let mut findings: Vec<Finding> = left_out
        .map(|b| finding(format!("device {}", b.name), Level::Note, format!("not offered: {}", b.why), None))
        .collect();
    for slot in boards.slots {
        let detail = match &slot.gpu {
            Some(g) => format!(
                "{}, {}, compute capability {}",
                slot.hardware,
                Bytes(slot.memory_bytes),
                g.gpu.compute_capability
            ),
            None => format!("{}, {}", slot.hardware, Bytes(slot.memory_bytes)),
        };
        let subject = format!("device {}", slot.id);
        findings.push(match DeviceLock::try_take(&options.lock_dir, &slot.id) {
            Ok(()) => finding(subject, Level::Ok, format!("{detail}; free"), None),
            Err(LockError::Taken { owner, .. }) => {
                finding(subject, Level::Note, format!("{detail}; in use by {owner}"), None)
            }
            Err(error) => finding(subject, Level::Problem, format!("{detail}; {error}"), None),
        });
        let covered = meter::of(&slot, &host.name, nvidia.as_ref(), &options.meters, None, &cache).covered;
        let subject = format!("energy of {}", slot.id);
        findings.push(match covered.device {
            Ok(device) => {
                let sources = device.describe().sources.join(", ");
                finding(subject, Level::Ok, format!("measured: {sources}"), None)
            }
            Err(why) => finding(
                subject,
                Level::Note,
                format!("unavailable: {why}"),
                Some("trials run; their energy, NS-E and NS# will be n/a"),
            ),
        });
    }
    findings
}

fn budget(check: Option<&Check>) -> Finding {
    match check {
        Some(c) if c.cpu_cap_enforced => {
            finding("memory budget", Level::Ok, "enforced: an allocation above the cap was refused", None)
        }
        Some(_) => finding(
            "memory budget",
            Level::Problem,
            "an allocation above the cap was not refused",
            Some("this libtorch does not use the worker's allocator; use the one that `make setup` brings"),
        ),
        None => finding("memory budget", Level::Note, "not checked: the worker could not be started", None),
    }
}

fn data(dir: &Path) -> Vec<Finding> {
    DatasetName::KNOWN
        .iter()
        .map(|name| {
            let known = DatasetName::try_from((*name).to_owned()).map_err(|e| e.to_string());
            let opened = known.and_then(|name| Dataset::open(&name, dir).map_err(|e| e.to_string()));
            match opened {
                Ok(d) => finding(
                    format!("data {name}"),
                    Level::Ok,
                    format!(
                        "{} classes, {} training and {} test images",
                        d.classes().len(),
                        d.len(Split::Train),
                        d.len(Split::Test)
                    ),
                    None,
                ),
                Err(why) => finding(format!("data {name}"), Level::Note, why, None),
            }
        })
        .collect()
}

fn weights(dir: Option<&Path>) -> Finding {
    let Some(dir) = dir else {
        return finding("weights", Level::Note, "no --weights folder: training starts from scratch", None);
    };
    let (mut there, mut lacking) = (Vec::new(), Vec::new());
    for backbone in Backbone::all() {
        let name = backbone.name();
        let found = match backbone.foundation() {
            Some(_) => ModelFolder::find(dir, name).map(|found| found.is_some()),
            None => fleet_checkpoint::find(dir, name).map(|found| found.is_some()),
        };
        match found {
            Ok(true) => there.push(name),
            // A model that is used as it is published does not run without its files, from scratch or otherwise.
            Ok(false) if backbone.foundation().is_none() => lacking.push(name),
            Ok(false) => {}
            Err(wrong) => return finding("weights", Level::Note, wrong.to_string(), None),
        }
    }
    if there.is_empty() {
        let expected = format!(
            "`fleet weights get` fetches the public ones; your own go there as files such as {}.safetensors",
            Backbone::TRAINED[0].name()
        );
        finding("weights", Level::Note, format!("none in {}", dir.display()), Some(&expected))
    } else {
        let scratch =
            if lacking.is_empty() { String::new() } else { format!("; from scratch: {}", lacking.join(", ")) };
        finding("weights", Level::Ok, format!("{}{scratch}", there.join(", ")), None)
    }
}
