//! The answer for people: what each block keeps and costs, and how a step went under each strategy.

use fleet_chart::numbers::{change, mib, plural, ranges, significant};
use fleet_common::profile::{Block, StepOutcome};
use fleet_common::record::{BlockChoice, MemoryPlan};
use fleet_common::units::Bytes;

use super::grid::{Cell, grid};
use super::{Document, asked};

/// Blocks whose figures are all this close to the first one's share a line.
const ALIKE: f64 = 0.02;
/// The choices whose recomputation has a column.
const AGAIN: [BlockChoice; 2] = [BlockChoice::Cheap, BlockChoice::Whole];

/// The tables.
pub fn text(document: &Document) -> String {
    let Document { request, profile, .. } = document;
    let budget = document.cell().budget_bytes.map(|b| format!(", budget {}", Bytes(b))).unwrap_or_default();
    let threads = plural(request.threads.into(), "thread");
    format!(
        "{}{budget}, {threads}\nFrom step to step stay {} MiB: weights, optimiser state, buffers. A step needs at least {} MiB, whatever runs again.\n\n{}\n{}",
        asked(document.cell()),
        in_mib(profile.persistent_bytes),
        in_mib(profile.least_bytes),
        blocks(&profile.blocks),
        steps(document)
    )
}

fn in_mib(bytes: u64) -> String {
    significant(mib(bytes as f64), 3)
}

fn in_ms(seconds: f64) -> String {
    significant(1e3 * seconds, 3)
}

/// What a line shows of a block: its forward's seconds, and of keep, cheap and whole the bytes kept and the seconds of
/// running again. A choice that the block does not have is `None`.
#[derive(Clone, Copy)]
struct Figures {
    forward: f64,
    keep: Option<f64>,
    again: [Option<(f64, f64)>; 2],
}

impl Figures {
    fn of(block: &Block) -> Self {
        let find = |choice| block.choices.iter().find(|c| c.choice == choice);
        Self {
            forward: block.forward_seconds,
            keep: find(BlockChoice::Keep).map(|c| c.kept_bytes as f64),
            again: AGAIN.map(|choice| find(choice).map(|c| (c.kept_bytes as f64, c.recompute_seconds))),
        }
    }

    /// All of them in the order of the columns.
    fn values(&self) -> Vec<Option<f64>> {
        let again = self.again.iter().flat_map(|c| [c.map(|(kept, _)| kept), c.map(|(_, seconds)| seconds)]);
        [Some(self.forward), self.keep].into_iter().chain(again).collect()
    }

    fn is_like(&self, other: &Self) -> bool {
        self.values().iter().zip(other.values()).all(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= ALIKE * a.abs().max(b.abs()),
            (a, b) => a.is_none() && b.is_none(),
        })
    }
}

fn blocks(blocks: &[Block]) -> String {
    let words = |text: &str| Cell::Words(text.to_owned());
    let number = |text: &str| Cell::Number(text.to_owned());
    let mut rows = vec![vec![
        words("block"),
        number("forward ms"),
        number("keep MiB"),
        number("cheap MiB"),
        number("again ms"),
        number("whole MiB"),
        number("again ms"),
    ]];
    for run in folded(blocks) {
        // Of blocks that share a line, the mean.
        let values: Vec<Vec<Option<f64>>> = run.iter().map(|b| Figures::of(b).values()).collect();
        let mean = |column: usize| {
            let sum: Option<f64> = values.iter().map(|v| v.get(column).copied().flatten()).sum();
            sum.map(|s| s / values.len() as f64)
        };
        let seconds = |column| Cell::Number(mean(column).map_or_else(|| "-".to_owned(), in_ms));
        let bytes = |column| Cell::Number(mean(column).map_or_else(|| "-".to_owned(), |b| significant(mib(b), 3)));
        rows.push(vec![Cell::Words(name(run)), seconds(0), bytes(1), bytes(2), seconds(3), bytes(4), seconds(5)]);
    }
    grid(&rows)
}

/// Runs of blocks of one row in the model, all like their first.
fn folded(blocks: &[Block]) -> Vec<&[Block]> {
    let mut runs = Vec::new();
    let mut rest = blocks;
    while let Some(first) = rest.first() {
        let figures = Figures::of(first);
        let next = |i: usize| {
            let (before, this) = (numbered(&rest[i - 1].name)?, numbered(&rest[i].name)?);
            let follows = before.0 == this.0 && before.1.checked_add(1) == Some(this.1);
            (follows && figures.is_like(&Figures::of(&rest[i]))).then_some(())
        };
        let length = (1..rest.len()).take_while(|i| next(*i).is_some()).count() + 1;
        let (run, after) = rest.split_at(length);
        runs.push(run);
        rest = after;
    }
    runs
}

/// `blocks.11` → (`blocks.`, 11).
fn numbered(name: &str) -> Option<(&str, u32)> {
    let (before, number) = name.rsplit_once('.')?;
    Some((&name[..before.len() + 1], number.parse().ok()?))
}

/// `blocks.0–11` for several.
fn name(run: &[Block]) -> String {
    match run {
        [first, .., last] => match numbered(&last.name) {
            Some((_, number)) => format!("{}–{number}", first.name),
            None => first.name.clone(),
        },
        [one] => one.name.clone(),
        [] => String::new(),
    }
}

fn steps(document: &Document) -> String {
    let words = |text: &str| Cell::Words(text.to_owned());
    let number = |text: &str| Cell::Number(text.to_owned());
    let steps = &document.profile.steps;
    let kept = steps.iter().find_map(|s| match &s.outcome {
        StepOutcome::Ran { seconds, .. } if s.checkpointing == fleet_common::spec::Checkpointing::None => {
            Some(*seconds)
        }
        _ => None,
    });
    let mut rows = vec![vec![
        words("checkpointing"),
        number("peak MiB"),
        number("of budget"),
        words("in"),
        number("step ms"),
        number("x none"),
        words("runs again"),
    ]];
    let mut failed = String::new();
    for step in steps {
        let strategy = step.checkpointing.name();
        match &step.outcome {
            StepOutcome::Ran { seconds, peak_bytes, peak_place, choices, recompute_seconds, plan, .. } => {
                let budget = document.cell().budget_bytes;
                let share = budget.map(|b| format!("{:.0} %", 100.0 * *peak_bytes as f64 / b as f64));
                rows.push(vec![
                    words(strategy),
                    Cell::Number(in_mib(*peak_bytes)),
                    Cell::Number(share.unwrap_or_else(|| "-".to_owned())),
                    Cell::Words(peak_place.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
                    Cell::Number(in_ms(*seconds)),
                    Cell::Number(kept.map_or_else(|| "-".to_owned(), |k| format!("{:.2}", seconds / k))),
                    Cell::Words(match plan {
                        Some(plan) => planned(plan),
                        None => again(choices, *recompute_seconds),
                    }),
                ]);
            }
            StepOutcome::Failed { reason } => failed.push_str(&format!("x {strategy}: {reason}\n")),
        }
    }
    let table = if rows.len() > 1 { grid(&rows) } else { String::new() };
    format!("{table}{failed}")
}

fn again(choices: &[BlockChoice], seconds: f64) -> String {
    let blocks = match &BlockChoice::whole(choices)[..] {
        [] => return "nothing".to_owned(),
        [one] => format!("block {one}"),
        many => format!("blocks {}", ranges(many)),
    };
    format!("{blocks}: {} ms by the profile", in_ms(seconds))
}

/// A plan, the peak that it expected, and by how much that was missed in its step of trial.
fn planned(plan: &MemoryPlan) -> String {
    let miss = plan.miss().map(|m| format!(" ({})", change(m))).unwrap_or_default();
    let (predicted, measured) = (in_mib(plan.predicted_peak_bytes), in_mib(plan.measured_peak_bytes));
    let second = if plan.replanned { ", the second plan" } else { "" };
    format!(
        "{}: {} ms by the profile; peak {predicted} MiB predicted, {measured} MiB measured{miss}{second}",
        plan.short(),
        in_ms(plan.recompute_seconds)
    )
}
