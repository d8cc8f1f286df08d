//! What checkpointing strategies make of a memory budget: activations, time, and what the profile expected of both.
//!
//! `cargo bench -p fleet-worker --bench memory [-- PART-OF-A-NAME …]`, or as a part of `make bench`. Budgets are placed
//! by how much less than with everything kept the activations may take: what a step's peak has above what stays from
//! step to step.

use fleet_common::profile::cells;
use fleet_common::record::BlockChoice;
use fleet_worker::checkpointing::profile::{Prediction, Profile};
use fleet_worker::checkpointing::{Adaptive, Planned, Policy, Uniform};
use fleet_worker::torch::memory::Memory;
use fleet_worker::train::profile::{Stage, StageError};
use tch::Device;

/// Backbone and batches.
const CASES: [(&str, &[u32]); 4] = [
    ("vit_small_patch16_224", &[8, 16]),
    ("tiny_vit_5m_224", &[8, 16]),
    ("vim_small_patch16_224", &[2]),
    ("mamba_vision_T", &[4]),
];
/// Activations less than with everything kept, percent; the two that are timed are the targets for ViT-Small.
const LESS: [u32; 5] = [20, 43, 60, 70, 80];
const TIMED: [u32; 2] = [43, 70];
/// Rounds of timed steps.
const ROUNDS: usize = 3;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let _memory = Memory::of(Device::Cpu);
    println!(
        "threads: {}. Activations: a step's peak less what stays from step to step. Share: time to run blocks again, of that of\n\
         all blocks' forward and backward with everything kept, by their profile. Ratio: of a whole step's time to that with\n\
         everything kept, medians of {ROUNDS} rounds.\n",
        tch::get_num_threads()
    );
    for (backbone, batches) in CASES {
        for batch in batches {
            for method in ["full", "lora"] {
                let name = format!("{backbone} batch {batch} {method}");
                let asked = wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
                if asked && let Err(error) = run(&name, backbone, *batch, method) {
                    println!("{name}: {error}\n");
                }
            }
        }
    }
}

fn run(name: &str, backbone: &str, batch: u32, method: &str) -> Result<(), StageError> {
    let toml = format!(
        "name = \"bench\"\nbudget = \"unlimited\"\n[matrix]\nmethod = {method:?}\nbackbone = {backbone:?}\n\
         checkpointing = \"none\"\ndataset = \"textures\"\n[train]\nbatch = {batch}\n"
    );
    let cells = cells(&toml, 100).map_err(StageError::Failed)?;
    let memory = Memory::of(Device::Cpu);
    // A case before may have ended in the middle.
    memory.set_cpu_cap(None);
    let mut stage = Stage::new(&cells[0], Device::Cpu)?;
    let persistent = memory.stats().map_or(0, |s| s.live);
    let profile = stage.profile()?;
    let blocks = profile.blocks();
    let count = blocks.len();
    let activations = |peak: u64| peak.saturating_sub(persistent) as f64;

    println!("### {name}\n");
    println!("| kept per block, MiB | keep | cheap | whole | cheap ms | whole ms | forward ms | backward ms |");
    println!("|---|---|---|---|---|---|---|---|");
    for run in blocks.chunk_by(|a, b| {
        let kept = |x: &fleet_common::profile::Block| x.choices.iter().map(|c| c.kept_bytes).collect::<Vec<_>>();
        kept(a) == kept(b)
    }) {
        let c = &run[0].choices;
        let mib = |i: usize| c[i].kept_bytes as f64 / f64::from(1 << 20);
        println!(
            "| {} × {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            run.len(),
            run[0].name,
            mib(0),
            mib(1),
            mib(2),
            1e3 * c[1].recompute_seconds,
            1e3 * c[2].recompute_seconds,
            1e3 * run[0].forward_seconds,
            1e3 * c[0].backward_seconds,
        );
    }
    println!();

    println!(
        "| strategy | budget MiB | peak MiB | predicted | activations MiB | less than none | share | ratio | blocks |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (mut rows, mut unfit) = (Vec::new(), Vec::new());
    let unmeasured = || StageError::Failed("a choice was not measured".to_owned());
    let uniform = |choice| profile.predict(&vec![choice; count]).ok_or_else(unmeasured);
    let none = uniform(BlockChoice::Keep)?;
    rows.push(Row::new("none", None, &stage, none.clone(), true)?);
    rows.push(Row::new("static", None, &stage, uniform(BlockChoice::Whole)?, true)?);
    rows.push(Row::new("cheap everywhere", None, &stage, uniform(BlockChoice::Cheap)?, true)?);
    for less in LESS {
        let timed = TIMED.contains(&less);
        let budget = persistent + (activations(none.peak) * f64::from(100 - less) / 100.0) as u64;
        memory.set_cpu_cap(Some(budget));
        // As a trial does it: planned, tried, and planned again where the trial misses.
        match stage.plan(&profile, budget, budget) {
            Ok(plan) => {
                let prediction = profile.predict(&plan.blocks).ok_or_else(unmeasured)?;
                rows.push(Row::new("planned", Some(budget), &stage, prediction, timed)?);
            }
            Err(StageError::DoesNotFit { needed, .. }) => {
                unfit.push(format!("| planned | {:.1} | needs {:.1} | | | | | | |", mib(budget), mib(needed)));
            }
            Err(error) => return Err(error),
        }
        // The study's ratio; and the one that, of all ratios, makes the most of this budget.
        let traced = stage.trace(Box::new(Adaptive::new(Device::Cpu, budget / 2)));
        let published = traced.ok().and_then(|_| profile.predict(&stage.choices()));
        let row = |name, prediction| Row::new(name, Some(budget), &stage, prediction, timed).ok();
        let published = published.and_then(|p| row("adaptive, ratio 0.5", p));
        let best = adaptive_shapes(&profile, count, budget).find_map(|p| row("adaptive, best ratio", p));
        for (name, found) in [("adaptive, ratio 0.5", published), ("adaptive, best ratio", best)] {
            match found {
                Some(found) => rows.push(found),
                None => unfit.push(format!("| {name} | {:.1} | does not fit | | | | | | |", mib(budget))),
            }
        }
        memory.set_cpu_cap(None);
    }
    let least = profile.least_peak();
    let smallest = profile.predict_least().ok_or_else(unmeasured)?;
    rows.push(Row::new("planned, smallest", Some(least), &stage, smallest, false)?);
    for round in 0..=ROUNDS {
        for row in rows.iter_mut().filter(|r| r.timed) {
            let seconds = stage.time(row.policy())?;
            // The first round only warms up.
            if round > 0 {
                row.seconds.push(seconds);
            }
        }
    }
    let reference = rows[0].median();
    let of_none = activations(rows[0].peak);
    for row in &rows {
        let budget = row.budget.map_or_else(|| "-".to_owned(), |b| format!("{:.1}", mib(b)));
        let ratio = if row.timed { format!("{:.2}", row.median() / reference) } else { "-".to_owned() };
        println!(
            "| {} | {budget} | {:.1} | {:+.2} % | {:.1} | −{:.1} % | {:.1} % | {ratio} | {} |",
            row.name,
            mib(row.peak),
            100.0 * (row.prediction.peak as f64 / row.peak as f64 - 1.0),
            mib(activations(row.peak) as u64),
            100.0 * (1.0 - activations(row.peak) / of_none),
            100.0 * row.prediction.recompute_seconds / profile.blocks_seconds(),
            BlockChoice::short(&row.prediction.choices),
        );
    }
    println!("{}\n", unfit.join("\n"));
    Ok(())
}

/// Some blocks kept, all later ones run again: what the adaptive strategy can come to within the budget, the most that
/// is kept first.
fn adaptive_shapes(profile: &Profile, count: usize, budget: u64) -> impl Iterator<Item = Prediction> {
    let shapes = (0..=count).rev().filter_map(move |kept| {
        let mut choices = vec![BlockChoice::Keep; kept];
        choices.resize(count, BlockChoice::Whole);
        profile.predict(&choices)
    });
    shapes.filter(move |p| p.peak <= budget)
}

struct Row {
    name: &'static str,
    budget: Option<u64>,
    prediction: Prediction,
    peak: u64,
    timed: bool,
    seconds: Vec<f64>,
}

impl Row {
    fn new(
        name: &'static str,
        budget: Option<u64>,
        stage: &Stage,
        prediction: Prediction,
        timed: bool,
    ) -> Result<Self, StageError> {
        let mut row = Self { name, budget, prediction, peak: 0, timed, seconds: Vec::new() };
        row.peak = stage.trace(row.policy())?.highest().map_or(0, |s| s.peak);
        Ok(row)
    }

    fn policy(&self) -> Box<dyn Policy> {
        match self.prediction.choices.first() {
            Some(first) if self.prediction.choices.iter().all(|c| c == first) => Box::new(Uniform(*first)),
            _ => Box::new(Planned(self.prediction.choices.clone())),
        }
    }

    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
