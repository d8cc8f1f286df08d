//! `fleet-agent profile`: what each block of a model keeps and costs, and a training step under each strategy. The worker
//! measures, this asks it and shows.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use fleet_common::profile::{Answer, Block, Profile, Step, StepOutcome};
pub use fleet_common::profile::{Request, cells};
use fleet_common::record::BlockChoice;
use fleet_common::units::{Bytes, duration};
use serde::{Deserialize, Serialize};

/// Name and version of the document that `--json` prints.
pub const SCHEMA: &str = "fleet.profile/1";

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was asked for.
    pub request: Request,
    /// What came of it.
    pub profile: Profile,
}

/// Has `worker` measure. `gpu` is the number or UUID of the only GPU that it may see.
///
/// # Errors
/// In words: it cannot be started, ended without an answer, or answered why there is none.
pub fn profile(worker: &Path, gpu: Option<&str>, request: &Request) -> Answer {
    let mut command = Command::new(worker);
    command.arg("--profile").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // As the daemon starts workers.
    if std::env::var_os("GOMP_SPINCOUNT").is_none() {
        command.env("GOMP_SPINCOUNT", "1000");
    }
    if let Some(gpu) = gpu {
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID").env("CUDA_VISIBLE_DEVICES", gpu);
    }
    let mut child = command.spawn().map_err(|e| format!("{} cannot be started: {e}", worker.display()))?;
    let mut line = serde_json::to_vec(request).expect("our own types are JSON");
    line.push(b'\n');
    // A worker that dies at once is told apart by its end, not by a broken pipe.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&line));
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    serde_json::from_slice::<Answer>(&output.stdout).unwrap_or_else(|_| {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
        Err(format!("the worker ended without an answer ({}): {last}", output.status))
    })
}

/// The document for people.
pub fn text(document: &Document) -> String {
    let Document { request, profile, .. } = document;
    let mut out = heading(request, profile);
    out.push('\n');
    out.push_str(&blocks_table(&profile.blocks));
    out.push('\n');
    out.push_str(&steps_table(&profile.steps, request.cells.first().and_then(|c| c.budget_bytes)));
    out
}

fn heading(request: &Request, profile: &Profile) -> String {
    let Some(cell) = request.cells.first() else { return String::new() };
    let budget = cell.budget_bytes.map_or_else(|| "no budget".to_owned(), |b| format!("budget {}", Bytes(b)));
    let per_pass = cell.train.batch / cell.train.micro_batches.max(1);
    let parts = if per_pass < cell.train.batch { format!(" in parts of {per_pass}") } else { String::new() };
    format!(
        "{}, {}: batch {}{parts}, {} px, {}, {} threads, {budget}\n\
         {} stay from step to step (weights, optimiser); a step needs at least {}, whatever runs again\n",
        cell.backbone.name(),
        cell.method.method().name(),
        cell.train.batch,
        cell.image_size,
        cell.train.precision.name(),
        request.threads,
        Bytes(profile.persistent_bytes),
        Bytes(profile.least_bytes),
    )
}

/// Blocks in a row that keep the same under every choice are one line.
fn blocks_table(blocks: &[Block]) -> String {
    let alike = |a: &Block, b: &Block| {
        let kept = |x: &Block| x.choices.iter().map(|c| (c.choice, c.kept_bytes)).collect::<Vec<_>>();
        kept(a) == kept(b)
    };
    let mut out = format!(
        "{:<28} {:>4} {:>8} {:>8}   {:^31}   {:^25}\n{:<28} {:>4} {:>8} {:>8}   {:>9} {:>10} {:>10}   {:>7} {:>7} {:>9}\n",
        "",
        "",
        "forward",
        "backward",
        "kept per block, MiB",
        "time to run again, ms",
        "blocks",
        "n",
        "ms",
        "ms",
        "keep",
        "cheap",
        "whole",
        "cheap",
        "whole",
        "whole*",
    );
    for run in blocks.chunk_by(alike) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let name = if run.len() == 1 { first.name.clone() } else { format!("{} … {}", first.name, last.name) };
        let of = |choice: BlockChoice| first.choices.iter().find(|c| c.choice == choice);
        let kept = |choice| of(choice).map_or_else(|| "-".to_owned(), |c| mib(c.kept_bytes));
        let again = |choice| of(choice).map_or_else(|| "-".to_owned(), |c| format!("{:.1}", 1e3 * c.recompute_seconds));
        let backward =
            of(BlockChoice::Keep).map_or_else(|| "-".to_owned(), |c| format!("{:.1}", 1e3 * c.backward_seconds));
        out.push_str(&format!(
            "{name:<28} {:>4} {:>8.1} {backward:>8}   {:>9} {:>10} {:>10}   {:>7} {:>7} {:>9}\n",
            run.len(),
            1e3 * first.forward_seconds,
            kept(BlockChoice::Keep),
            kept(BlockChoice::Cheap),
            kept(BlockChoice::Whole),
            again(BlockChoice::Cheap),
            again(BlockChoice::Whole),
            again(BlockChoice::WholeCheap),
        ));
    }
    out.push_str(
        "cheap: norms, activations, expansions run again, products do not; whole: only inputs are kept; whole*: and while it\n\
         runs again, no more than under cheap\n",
    );
    out
}

fn steps_table(steps: &[Step], budget: Option<u64>) -> String {
    let mut out = format!(
        "{:<10} {:>9} {:>9} {:>9} {:>7} {:>9}  {:<24} {}\n",
        "strategy", "peak MiB", "of budget", "step", "ratio", "again", "at the peak", "blocks"
    );
    let reference = steps.iter().find_map(|step| match &step.outcome {
        StepOutcome::Ran { seconds, .. } => Some(*seconds),
        StepOutcome::Failed { .. } => None,
    });
    for step in steps {
        let name = step.checkpointing.name();
        match &step.outcome {
            StepOutcome::Failed { reason } => out.push_str(&format!("{name:<10} {reason}\n")),
            StepOutcome::Ran { seconds, peak_bytes, peak_place, choices, recompute_seconds, plan, .. } => {
                let share = budget
                    .map_or_else(|| "-".to_owned(), |b| format!("{:.0} %", 100.0 * *peak_bytes as f64 / b as f64));
                let ratio = reference.map_or_else(|| "-".to_owned(), |r| format!("{:.2}", seconds / r));
                let place = peak_place.as_ref().map(ToString::to_string).unwrap_or_default();
                out.push_str(&format!(
                    "{name:<10} {:>9} {share:>9} {:>9} {ratio:>7} {:>9}  {place:<24} {}\n",
                    mib(*peak_bytes),
                    duration(*seconds),
                    duration(*recompute_seconds),
                    summary(choices),
                ));
                if let Some(plan) = plan {
                    let again = if plan.replanned { "; the first plan missed, this is the second" } else { "" };
                    out.push_str(&format!(
                        "{:<10} {:>9} predicted, to stay below {}{again}\n",
                        "",
                        mib(plan.predicted_peak_bytes),
                        Bytes(plan.limit_bytes)
                    ));
                }
            }
        }
    }
    out.push_str("ratio: of the step's time to that of the first strategy that ran; again: of it, time to run blocks again, by their profile\n");
    out
}

/// How many blocks of each choice, and which in their order: `1 whole, 2 cheap, 1 keep: wcck`.
pub fn summary(choices: &[BlockChoice]) -> String {
    let short = |choice: BlockChoice| match choice {
        BlockChoice::Keep => ("keep", 'k'),
        BlockChoice::Cheap => ("cheap", 'c'),
        BlockChoice::Whole => ("whole", 'w'),
        BlockChoice::WholeCheap => ("whole*", 'W'),
    };
    let count = |choice: BlockChoice| choices.iter().filter(|c| **c == choice).count();
    let counts = BlockChoice::ALL.iter().rev().filter(|c| count(**c) > 0);
    let counts: Vec<String> = counts.map(|c| format!("{} {}", count(*c), short(*c).0)).collect();
    let order: String = choices.iter().map(|c| short(*c).1).collect();
    if counts.len() > 1 { format!("{}: {order}", counts.join(", ")) } else { counts.join(", ") }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
