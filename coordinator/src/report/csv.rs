//! Records as a table for spreadsheets and data frames: one row per trial, RFC 4180.
//!
//! The columns are documented in the coordinator's README. New ones come last, so that a column's number stays what it
//! was. A cell is empty where there is no value; why there is no energy stands in a column of its own.

use fleet_common::compare::{Cost, Group, Preparation, compare};
use fleet_common::plan::{MethodSettings, TrainSettings, WeightsRef};
use fleet_common::record::{Energy, EnergyDomain, IdlePower, MemoryPlan, Reading, Record};
use fleet_common::score::{Exponents, Summary};
use fleet_common::spec::Sampling;
use fleet_common::worker::Phase;

/// A record, and its costs and scores if it completed.
struct Row<'a> {
    record: &'a Record,
    group: Option<Group>,
    /// The same, where what was prepared counts as inference.
    counted: Option<Group>,
}

impl Row<'_> {
    /// Of what inference took, an image's share.
    fn per_image(&self, total: Option<f64>) -> Option<f64> {
        let images = self.record.worker_phase(Phase::Evaluate)?.images;
        total.filter(|_| images > 0).map(|total| total / images as f64)
    }

    /// Side of the square pictures that the model saw; of a published model its folder decides, when it is read.
    fn image_size(&self) -> Option<u32> {
        match self.record.settings.train {
            Some(_) => Some(self.record.settings.image_size),
            None => self.record.training.frozen.as_ref()?.image_size,
        }
    }
}

type Column = (&'static str, fn(&Row<'_>) -> String);

/// From the left, without those of the phases and scores.
static SETTINGS: [Column; 39] = [
    ("trial", |r| r.record.trial.to_string()),
    ("cell", |r| r.record.trial.cell.to_string()),
    ("hardware_asked", |r| optional(r.record.trial.hardware.as_ref())),
    ("repeat", |r| r.record.trial.repeat.to_string()),
    ("attempt", |r| r.record.attempt.to_string()),
    ("segments", |r| r.record.segments.len().to_string()),
    ("outcome", |r| r.record.outcome.class().to_owned()),
    ("reason", |r| r.record.outcome.reason().unwrap_or_default()),
    ("method", |r| r.record.settings.method.method().name().to_owned()),
    ("lora_rank", |r| lora(r).map(|(rank, ..)| rank.to_string()).unwrap_or_default()),
    ("lora_alpha", |r| lora(r).map(|(_, alpha, ..)| alpha.to_string()).unwrap_or_default()),
    ("lora_dropout", |r| lora(r).map(|(_, _, dropout, _)| dropout.to_string()).unwrap_or_default()),
    ("lora_targets", |r| lora(r).map(|(.., targets)| targets.join(" ")).unwrap_or_default()),
    ("backbone", |r| r.record.settings.backbone.name().to_owned()),
    ("image_size", |r| optional(r.image_size().as_ref())),
    ("checkpointing", |r| r.record.settings.checkpointing.name().to_owned()),
    ("dataset", |r| r.record.settings.dataset.name.clone()),
    ("dataset_fingerprint", |r| r.record.settings.dataset.fingerprint.clone()),
    ("classes", |r| r.record.settings.dataset.classes.to_string()),
    ("weights", |r| match &r.record.settings.weights {
        WeightsRef::Scratch => "scratch".to_owned(),
        WeightsRef::File { sha256 } | WeightsRef::Folder { sha256 } => sha256.clone(),
    }),
    ("seed", |r| r.record.settings.seed.to_string()),
    ("budget_bytes", |r| optional(r.record.settings.budget_bytes.as_ref())),
    ("steps", |r| train(r, |t| t.steps.to_string())),
    ("warm_up_steps", |r| train(r, |t| t.warm_up_steps.to_string())),
    ("batch", |r| train(r, |t| t.batch.to_string())),
    ("learning_rate", |r| train(r, |t| t.learning_rate.to_string())),
    ("weight_decay", |r| train(r, |t| t.weight_decay.to_string())),
    ("sampling", |r| {
        train(r, |t| match t.sampling {
            Sampling::Replacement => "replacement".to_owned(),
            Sampling::Shuffle => "shuffle".to_owned(),
        })
    }),
    ("augment", |r| train(r, |t| t.augment.to_string())),
    ("micro_batches", |r| train(r, |t| t.micro_batches.to_string())),
    ("schedule", |r| train(r, |t| t.schedule.name().to_owned())),
    ("ramp_steps", |r| train(r, |t| t.ramp_steps.to_string())),
    ("clip_norm", |r| train(r, |t| optional(t.clip_norm.as_ref()))),
    ("evaluation_batch", |r| r.record.settings.evaluate.batch.to_string()),
    ("evaluation_limit", |r| optional(r.record.settings.evaluate.limit.as_ref())),
    ("definition", |r| r.record.settings.definition.to_string()),
    ("parameters", |r| r.record.training.parameters.to_string()),
    ("trainable", |r| r.record.training.trainable.to_string()),
    ("macs", |r| r.record.training.macs.to_string()),
];

/// Results and scores. NS does not depend on a cost; the others are given with that of training and of inference.
static RESULTS: [Column; 10] = [
    ("top1_percent", |r| optional(r.record.training.top1_percent.as_ref())),
    ("evaluation_loss", |r| optional(r.record.training.evaluation_loss.as_ref())),
    ("evaluated", |r| r.record.training.evaluated.to_string()),
    ("ns", |r| score(r, |g| &g.inference.scores.ns)),
    ("training_ns_e", |r| score(r, |g| &g.training.scores.ns_e)),
    ("training_ns_m", |r| score(r, |g| &g.training.scores.ns_m)),
    ("training_ns_sharp", |r| score(r, |g| &g.training.scores.ns_sharp)),
    ("inference_ns_e", |r| score(r, |g| &g.inference.scores.ns_e)),
    ("inference_ns_m", |r| score(r, |g| &g.inference.scores.ns_m)),
    ("inference_ns_sharp", |r| score(r, |g| &g.inference.scores.ns_sharp)),
];

/// The phases that have columns, and their prefixes.
const PHASES: [(Phase, &str); 5] = [
    (Phase::Load, "load"),
    (Phase::WarmUp, "warm_up"),
    (Phase::Train, "train"),
    (Phase::Evaluate, "evaluate"),
    (Phase::Save, "save"),
];

type PhaseColumn = (&'static str, fn(&Record, Phase) -> String);

/// Of each phase.
static OF_PHASE: [PhaseColumn; 6] = [
    ("seconds", |r, p| optional(r.phase(p).map(|x| x.seconds).as_ref())),
    ("joules", |r, p| optional(r.phase(p).and_then(|x| x.energy.value()).map(|e| e.joules).as_ref())),
    ("energy_domain", |r, p| optional(r.phase(p).and_then(|x| x.energy.value()).map(|e| e.domain.name()).as_ref())),
    ("energy_unavailable", |r, p| match r.phase(p).map(|x| &x.energy) {
        Some(Reading::Unavailable(why)) => why.clone(),
        _ => String::new(),
    }),
    ("peak_bytes", |r, p| optional(r.worker_phase(p).map(|x| x.peak_bytes).as_ref())),
    ("images", |r, p| optional(r.worker_phase(p).map(|x| x.images).as_ref())),
];

/// Where, with what, and when.
static MACHINE: [Column; 18] = [
    ("hardware", |r| r.record.machine.hardware.to_string()),
    ("agent", |r| r.record.machine.agent.to_string()),
    ("slot", |r| r.record.machine.slot.to_string()),
    ("host", |r| r.record.machine.host.clone()),
    ("os", |r| r.record.machine.os.clone()),
    ("cpu", |r| r.record.machine.cpu.clone()),
    ("cpus", |r| r.record.machine.cpus.to_string()),
    ("memory_bytes", |r| r.record.machine.memory_bytes.to_string()),
    ("gpu", |r| optional(r.record.machine.gpu.as_ref().map(|g| &g.name))),
    ("gpu_driver", |r| optional(r.record.machine.gpu.as_ref().map(|g| &g.driver))),
    ("fleet", |r| r.record.training.software.fleet.clone()),
    ("libtorch", |r| r.record.training.software.libtorch.clone()),
    ("cuda", |r| optional(r.record.training.software.cuda.as_ref())),
    ("threads", |r| r.record.training.software.threads.to_string()),
    ("decode_threads", |r| r.record.training.software.decode_threads.to_string()),
    ("started_unix_ms", |r| r.record.started_unix_ms.to_string()),
    ("finished_unix_ms", |r| r.record.finished_unix_ms.to_string()),
    ("flags", |r| r.record.flags.join("; ")),
];

/// What came after the first version of this table.
static LATER: [Column; 50] = [
    ("preprocessing", |r| train(r, |t| t.preprocessing.name().to_owned())),
    ("precision", |r| train(r, |t| t.precision.name().to_owned())),
    ("batch_norm", |r| train(r, |t| t.batch_norm.name().to_owned())),
    ("first_losses", |r| optional(mean(first_tenth(&r.record.training.losses)).as_ref())),
    ("last_losses", |r| optional(mean(last_tenth(&r.record.training.losses)).as_ref())),
    ("adaptive_ratio", |r| optional(r.record.settings.adaptive_ratio.as_ref())),
    ("recompute_threshold_bytes", |r| optional(r.record.training.recompute_threshold_bytes.as_ref())),
    ("planned_margin", |r| optional(r.record.settings.planned_margin.as_ref())),
    ("plan", |r| planned(r, MemoryPlan::short)),
    ("predicted_peak_bytes", |r| planned(r, |p| p.predicted_peak_bytes)),
    ("plan_measured_peak_bytes", |r| planned(r, |p| p.measured_peak_bytes)),
    ("recompute_seconds", |r| planned(r, |p| p.recompute_seconds)),
    ("replanned", |r| planned(r, |p| p.replanned)),
    ("budget_scope", |r| r.record.settings.budget_scope.name().to_owned()),
    ("cap_bytes", |r| optional(r.record.training.cap.map(|c| c.bytes).as_ref())),
    ("overhead_bytes", |r| optional(r.record.training.cap.and_then(|c| c.overhead_bytes).as_ref())),
    ("profile_seconds", |r| optional(r.record.phase(Phase::Profile).map(|p| p.seconds).as_ref())),
    ("profile_joules", |r| {
        let energy = r.record.phase(Phase::Profile).and_then(|p| p.energy.value());
        optional(energy.map(|e| e.joules).as_ref())
    }),
    ("profile_peak_bytes", |r| optional(r.record.worker_phase(Phase::Profile).map(|p| p.peak_bytes).as_ref())),
    ("train_above_idle_joules", |r| above_idle(r, Phase::Train)),
    ("train_energy_source", |r| energy(r, Phase::Train, |e| e.source.clone())),
    ("train_energy_error", |r| error(r, Phase::Train)),
    ("train_energy_check", |r| optional(measured(r, Phase::Train).and_then(Energy::ratio).as_ref())),
    ("evaluate_above_idle_joules", |r| above_idle(r, Phase::Evaluate)),
    ("evaluate_energy_source", |r| energy(r, Phase::Evaluate, |e| e.source.clone())),
    ("evaluate_energy_error", |r| error(r, Phase::Evaluate)),
    ("evaluate_energy_check", |r| optional(measured(r, Phase::Evaluate).and_then(Energy::ratio).as_ref())),
    ("train_cpu_package_joules", |r| beside(r, EnergyDomain::CpuPackages)),
    ("train_dram_joules", |r| beside(r, EnergyDomain::Dram)),
    ("train_wall_joules", |r| beside(r, EnergyDomain::Wall)),
    ("idle_watts", |r| optional(idle(r).map(|i| i.watts).as_ref())),
    ("idle_unix_ms", |r| optional(idle(r).map(|i| i.measured_unix_ms).as_ref())),
    ("start_celsius", |r| optional(r.record.metering.as_ref().and_then(|m| m.start_celsius).as_ref())),
    ("agent_version", |r| optional(r.record.machine.agent_version.as_ref())),
    ("train_driver_peak_bytes", |r| optional(r.record.phase(Phase::Train).and_then(|p| p.peak_driver_bytes).as_ref())),
    ("agent_cpu_seconds", |r| optional(r.record.metering.as_ref().map(|m| m.cpu_seconds).as_ref())),
    ("method_settings", |r| method(r)),
    ("prepare_seconds", |r| optional(r.record.phase(Phase::Prepare).map(|p| p.seconds).as_ref())),
    ("prepare_joules", |r| energy(r, Phase::Prepare, |e| e.joules)),
    ("prepare_peak_bytes", |r| optional(r.record.worker_phase(Phase::Prepare).map(|p| p.peak_bytes).as_ref())),
    ("prepare_images", |r| optional(r.record.worker_phase(Phase::Prepare).map(|p| p.images).as_ref())),
    ("inference_seconds_per_image", |r| {
        optional(r.per_image(r.record.phase(Phase::Evaluate).map(|p| p.seconds)).as_ref())
    }),
    ("inference_joules_per_image", |r| optional(r.per_image(measured(r, Phase::Evaluate).map(|e| e.joules)).as_ref())),
    ("weights_from", |r| match r.record.settings.weights {
        WeightsRef::Scratch => "scratch".to_owned(),
        WeightsRef::File { .. } => "file".to_owned(),
        WeightsRef::Folder { .. } => "published".to_owned(),
    }),
    ("inference_with_prepare_seconds_per_image", |r| {
        let seconds = r.counted.as_ref().and_then(|g| g.inference.seconds);
        optional(r.per_image(seconds.map(|s| s.mean)).as_ref())
    }),
    ("inference_with_prepare_joules_per_image", |r| counted(r, |c| c.joules_per_image.value().copied())),
    ("inference_with_prepare_peak_bytes", |r| counted(r, |c| c.peak_bytes)),
    ("inference_with_prepare_ns_e", |r| counted(r, |c| c.scores.ns_e.value().copied())),
    ("inference_with_prepare_ns_m", |r| counted(r, |c| c.scores.ns_m.value().copied())),
    ("inference_with_prepare_ns_sharp", |r| counted(r, |c| c.scores.ns_sharp.value().copied())),
];

fn measured<'a>(row: &Row<'a>, phase: Phase) -> Option<&'a Energy> {
    row.record.phase(phase)?.energy.value()
}

fn energy<T: ToString>(row: &Row<'_>, phase: Phase, of: impl Fn(&Energy) -> T) -> String {
    optional(measured(row, phase).map(of).as_ref())
}

fn above_idle(row: &Row<'_>, phase: Phase) -> String {
    optional(measured(row, phase).and_then(|e| e.above_idle.value().copied()).as_ref())
}

/// Half width of the interval, relative to the joules.
fn error(row: &Row<'_>, phase: Phase) -> String {
    optional(measured(row, phase).and_then(|e| e.uncertainty.as_ref()).map(|u| u.relative()).as_ref())
}

/// Joules of another part of the machine while it trained.
fn beside(row: &Row<'_>, domain: EnergyDomain) -> String {
    let others = row.record.phase(Phase::Train).map_or(&[][..], |p| &p.other_energy);
    optional(others.iter().find(|e| e.domain == domain).map(|e| e.joules).as_ref())
}

/// Idle power of the device.
fn idle<'a>(row: &Row<'a>) -> Option<&'a IdlePower> {
    let of = |phase| measured(row, phase);
    let domain = of(Phase::Train).or_else(|| of(Phase::Prepare)).or_else(|| of(Phase::Evaluate))?.domain;
    row.record.metering.as_ref()?.meters.iter().find(|m| m.domain == domain)?.idle.value()
}

/// The first tenth of the steps, rounded up.
fn first_tenth(losses: &[f32]) -> &[f32] {
    &losses[..losses.len().div_ceil(10)]
}

/// The last tenth of the steps, rounded up.
fn last_tenth(losses: &[f32]) -> &[f32] {
    &losses[losses.len() - losses.len().div_ceil(10)..]
}

fn mean(losses: &[f32]) -> Option<f64> {
    (!losses.is_empty()).then(|| losses.iter().copied().map(f64::from).sum::<f64>() / losses.len() as f64)
}

/// A value of what the planned strategy chose.
fn planned<T: ToString>(row: &Row<'_>, of: impl Fn(&MemoryPlan) -> T) -> String {
    optional(row.record.training.memory_plan.as_ref().map(of).as_ref())
}

fn optional(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// A method's settings as the record has them, in JSON; empty where it has none.
fn method(row: &Row<'_>) -> String {
    let mut settings = serde_json::to_value(&row.record.settings.method).unwrap_or_default();
    if let Some(fields) = settings.as_object_mut() {
        fields.remove("name");
    }
    let empty = settings.as_object().is_none_or(serde_json::Map::is_empty);
    if empty { String::new() } else { settings.to_string() }
}

/// A setting of training; empty where nothing is trained.
fn train(row: &Row<'_>, of: impl Fn(&TrainSettings) -> String) -> String {
    row.record.settings.train.as_ref().map(of).unwrap_or_default()
}

/// Rank, alpha, dropout and targets of a method with adapters; AdaLoRA's rank is the one it starts with.
fn lora<'a>(row: &Row<'a>) -> Option<(u32, f64, f64, &'a [String])> {
    let (rank, alpha, dropout) = match &row.record.settings.method {
        MethodSettings::Lora(lora) => (lora.rank, lora.alpha, lora.dropout),
        MethodSettings::QLora(qlora) => (qlora.rank, qlora.alpha, qlora.dropout),
        MethodSettings::AdaLora(ada) => (ada.init_rank, ada.alpha, ada.dropout),
        _ => return None,
    };
    Some((rank, alpha, dropout, row.record.settings.method.targets()?))
}

fn score(row: &Row<'_>, of: impl Fn(&Group) -> &Reading<Summary>) -> String {
    optional(row.group.as_ref().and_then(|g| of(g).value()).map(|s| s.mean).as_ref())
}

/// A figure of inference with what was prepared for it.
fn counted(row: &Row<'_>, of: impl Fn(&Cost) -> Option<Summary>) -> String {
    optional(row.counted.as_ref().and_then(|g| of(&g.inference)).map(|s| s.mean).as_ref())
}

/// The table, with a head.
///
/// # Errors
/// The memory for it could not be had.
pub fn csv(records: &[Record]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut head: Vec<String> = SETTINGS.iter().chain(&RESULTS).map(|(name, _)| (*name).to_owned()).collect();
    for (_, phase) in PHASES {
        head.extend(OF_PHASE.iter().map(|(name, _)| format!("{phase}_{name}")));
    }
    head.extend(MACHINE.iter().chain(&LATER).map(|(name, _)| (*name).to_owned()));
    writer.write_record(&head)?;
    for record in records {
        let group = |preparation| compare([record], &Exponents::default(), preparation).groups.pop();
        let row = Row { record, group: group(Preparation::Apart), counted: group(Preparation::Counted) };
        let mut cells: Vec<String> = SETTINGS.iter().chain(&RESULTS).map(|(_, cell)| cell(&row)).collect();
        for (phase, _) in PHASES {
            cells.extend(OF_PHASE.iter().map(|(_, cell)| cell(record, phase)));
        }
        cells.extend(MACHINE.iter().chain(&LATER).map(|(_, cell)| cell(&row)));
        writer.write_record(&cells)?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
