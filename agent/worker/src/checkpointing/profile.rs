//! What every block keeps, needs and costs under each choice, measured with the model, the method and the batch of a
//! trial.
//!
//! Two measurements. One pass in which every block runs again as a whole, the most economical way, tells what is there
//! beside the blocks' own: weights, gradients so far, the head at the turn. Then each block runs by itself, once per
//! choice. Both run inside the budget. Nothing of the model moves.

use std::cell::RefCell;
use std::time::Duration;

use fleet_common::chain;
use fleet_common::profile;
use fleet_common::record::BlockChoice;
use tch::{Device, Tensor};

use super::isolate::{Bench, Isolated, bytes};
use crate::nn::{Ctx, Executor, Slot};
use crate::torch::memory::Memory;
use crate::torch::timeline::{Stretch, Timeline};
use crate::torch::{GradMode, TorchError, guard};

/// Seconds are counted in this share of all blocks' time: finer than any clock here is steady, and coarse enough that
/// the solver's fronts stay short.
const TICKS: f64 = 20_000.0;

/// A block's profile.
#[derive(Debug, Clone, PartialEq)]
struct BlockProfile {
    name: String,
    /// Bytes of its inputs.
    inputs: Vec<u64>,
    /// Bytes of its outputs.
    outputs: Vec<u64>,
    /// In the order of [`BlockChoice::ALL`]; a choice that did not fit is missing.
    choices: Vec<(BlockChoice, Isolated)>,
    /// What is live when its forward begins, in the pass in which everything runs again.
    forward_begins: u64,
    /// What is live when its backward begins there; `None` if it has none.
    backward_begins: Option<u64>,
}

/// A model's profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    blocks: Vec<BlockProfile>,
    /// Most bytes between the last block's forward and its backward, in the pass in which everything runs again.
    turn: u64,
    /// Most bytes before the first block's forward and after its backward: no choice changes them.
    beside: u64,
}

/// What a set of choices is expected to need and to cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Per block.
    pub choices: Vec<BlockChoice>,
    /// Most bytes of a pass.
    pub peak: u64,
    /// Seconds of running again.
    pub recompute_seconds: f64,
}

/// How a pass that runs everything again went.
pub struct Outline {
    /// Its memory.
    pub timeline: Timeline,
    /// Which inputs of each block want a gradient.
    pub wanted: Vec<Vec<bool>>,
}

/// Runs `forward` once without recording, and each block that it comes by on its own, `times` times per choice.
/// `wanted` says which inputs of each block want a gradient; `only` which blocks to measure.
fn isolated(
    device: Device,
    wanted: &[Vec<bool>],
    only: &[bool],
    times: usize,
    forward: &dyn Fn(&dyn Executor),
) -> Result<Vec<Measured>, TorchError> {
    let isolating = Isolating { device, wanted, only, times, measured: RefCell::default() };
    guard(|| {
        let _off = GradMode::off();
        forward(&isolating);
    })?;
    Ok(isolating.measured.into_inner())
}

/// A block's sizes and measurements.
struct Measured {
    name: String,
    inputs: Vec<u64>,
    outputs: Vec<u64>,
    choices: Vec<(BlockChoice, Isolated)>,
}

struct Isolating<'a> {
    device: Device,
    wanted: &'a [Vec<bool>],
    only: &'a [bool],
    times: usize,
    measured: RefCell<Vec<Measured>>,
}

impl Isolating<'_> {
    /// `None` where there is too little memory for that choice: then it cannot be made.
    ///
    /// # Panics
    /// Where libtorch fails otherwise.
    fn once(&self, bench: &Bench<'_>, ctx: &Ctx, choice: BlockChoice) -> Option<Isolated> {
        let measure = || guard(|| bench.measure(ctx, choice)).map_err(anyhow::Error::from).flatten();
        match Memory::of(self.device).watch(measure) {
            (Ok(measured), _) => Some(measured),
            (Err(_), true) => None,
            (Err(error), false) => panic!("{error:#}"),
        }
    }
}

impl Executor for Isolating<'_> {
    fn run(&self, blocks: &[Slot], mut xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        for (index, slot) in blocks.iter().enumerate() {
            let ctx = Ctx { seed: ctx.seed.branch(index as u64), ..*ctx };
            let inputs = xs.iter().map(bytes).collect();
            let mut choices = Vec::new();
            if self.only.get(index).copied().unwrap_or(true) {
                let none = vec![false; xs.len()];
                let wanted = self.wanted.get(index).unwrap_or(&none);
                let bench = Bench { device: self.device, index, slot, xs: &xs, wanted };
                // In another order for each block, so that no choice is always the one that finds caches cold.
                let order = (0..BlockChoice::ALL.len()).map(|i| BlockChoice::ALL[(i + index) % BlockChoice::ALL.len()]);
                for choice in order {
                    let all: Option<Vec<Isolated>> = (0..self.times).map(|_| self.once(&bench, &ctx, choice)).collect();
                    let fastest = |all: Vec<Isolated>| {
                        let least = |f: fn(&Isolated) -> Duration| all.iter().map(f).min().unwrap_or_default();
                        let (forward, backward) = (least(|m| m.forward), least(|m| m.backward));
                        Some(Isolated { forward, backward, ..all.into_iter().next()? })
                    };
                    choices.extend(all.and_then(fastest).map(|measured| (choice, measured)));
                }
                choices.sort_by_key(|(choice, _)| *choice);
            }
            ctx.seed.apply();
            xs = slot.forward(xs, &ctx);
            let outputs = xs.iter().map(bytes).collect();
            self.measured.borrow_mut().push(Measured { name: slot.name().to_owned(), inputs, outputs, choices });
        }
        xs
    }
}

impl Profile {
    /// Measures. `forward` runs the model forward in training through an executor it is given.
    ///
    /// # Errors
    /// libtorch's.
    pub fn measure(device: Device, outline: &Outline, forward: &dyn Fn(&dyn Executor)) -> Result<Self, TorchError> {
        let mut measured = isolated(device, &outline.wanted, &[], 1, forward)?;
        // Equal blocks lend each other their times. Those with few equals are timed again.
        let alone: Vec<bool> = kinds(&measured).iter().map(|kind| kind.len() < 3).collect();
        if alone.iter().any(|alone| *alone) {
            let again = isolated(device, &outline.wanted, &alone, 2, forward)?;
            for (first, again) in measured.iter_mut().zip(again) {
                for (choice, m) in &mut first.choices {
                    if let Some((_, n)) = again.choices.iter().find(|(c, _)| c == choice) {
                        (m.forward, m.backward) = (m.forward.min(n.forward), m.backward.min(n.backward));
                    }
                }
            }
        }
        share_times(&mut measured);
        let stretches = &outline.timeline.stretches;
        let begins = |phase: &str, block: usize| {
            let here = |s: &&Stretch| s.place.phase_name() == phase && s.place.block_index() == Some(block as u32);
            stretches.iter().find(here).map(|s| s.live)
        };
        let blocks: Vec<BlockProfile> = measured
            .into_iter()
            .enumerate()
            .map(|(i, m)| BlockProfile {
                name: m.name,
                inputs: m.inputs,
                outputs: m.outputs,
                choices: m.choices,
                forward_begins: begins("forward", i).unwrap_or(0),
                backward_begins: begins("recompute", i),
            })
            .collect();
        let in_block = |s: &Stretch| s.place.block_index().is_some();
        let forwards = |s: &Stretch| in_block(s) && s.place.phase_name() == "forward";
        let last_forward = stretches.iter().rposition(forwards).unwrap_or(0);
        let first_forward = stretches.iter().position(forwards).unwrap_or(0);
        let backs = |s: &Stretch| in_block(s) && s.place.phase_name() != "forward";
        let first_back = stretches.iter().position(backs).unwrap_or(stretches.len());
        let last_back = stretches.iter().rposition(backs).unwrap_or(stretches.len());
        let most = |part: &[Stretch]| part.iter().map(|s| s.peak).max().unwrap_or(0);
        let from = |i: usize| stretches.get(i..).unwrap_or_default();
        Ok(Self {
            blocks,
            turn: most(stretches.get(last_forward + 1..first_back).unwrap_or_default()),
            beside: most(&stretches[..first_forward]).max(most(from(last_back + 1))),
        })
    }

    /// The problem of staying below `limit` bytes.
    fn problem(&self, limit: u64) -> chain::Problem {
        let tick = self.tick();
        let economical = |block: &BlockProfile| block.choices.len().saturating_sub(1);
        // What is held in front of each block in the pass in which everything ran again, by the same reckoning.
        let (mut held, mut before) = (0, None);
        let mut stages = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let previous = i.checked_sub(1).map(|p| &self.blocks[p]);
            let options = (0..).zip(&block.choices).map(|(rank, (choice, measured))| chain::Choice {
                // Of choices that cost the same as far as the clock can tell, the one that runs less again.
                cost: (self.cost(block, *choice) / tick).round() as u64 + rank,
                held: match previous {
                    None => vec![holds(block, measured, None)],
                    Some(p) => p.choices.iter().map(|(_, m)| holds(block, measured, Some(m))).collect(),
                },
                there: measured.there,
                back: if block.backward_begins.is_some() { measured.back + kept_outputs(block, measured) } else { 0 },
            });
            let options: Vec<chain::Choice> = options.collect();
            let there = block.forward_begins.saturating_sub(held);
            if let Some(last) = options.last() {
                held += last.held[before.unwrap_or(0)];
            }
            before = Some(economical(block));
            let back = block.backward_begins.map_or(0, |live| live.saturating_sub(held));
            stages.push(chain::Stage { there, back, options });
        }
        chain::Problem { limit, stages, turn: self.turn.saturating_sub(held) }
    }

    /// The choices that stay below `limit` bytes and cost the least time.
    ///
    /// # Errors
    /// There are none; the fewest bytes for which there are.
    pub fn plan(&self, limit: u64) -> Result<Prediction, u64> {
        let solved = chain::solve(&self.problem(limit)).map_err(|e| e.least.max(self.beside))?;
        if self.beside > limit { Err(self.beside) } else { Ok(self.prediction(&solved)) }
    }

    /// What choices are expected to need and to cost; `None` where one of them did not fit by itself.
    pub fn predict(&self, choices: &[BlockChoice]) -> Option<Prediction> {
        let options = self.blocks.iter().zip(choices);
        let options: Option<Vec<usize>> =
            options.map(|(block, choice)| block.choices.iter().position(|(c, _)| c == choice)).collect();
        Some(self.prediction(&self.problem(u64::MAX).evaluate(&options?)))
    }

    /// The choices that need the fewest bytes.
    pub fn predict_least(&self) -> Option<Prediction> {
        self.plan(self.least_peak()).ok()
    }

    /// Fewest bytes that any choices need.
    pub fn least_peak(&self) -> u64 {
        self.problem(u64::MAX).least_peak().max(self.beside)
    }

    fn prediction(&self, solved: &chain::Solution) -> Prediction {
        let choices: Vec<BlockChoice> =
            self.blocks.iter().zip(&solved.options).map(|(block, option)| block.choices[*option].0).collect();
        let recompute_seconds = self.blocks.iter().zip(&choices).map(|(block, choice)| self.cost(block, *choice)).sum();
        Prediction { choices, peak: solved.peak.max(self.beside), recompute_seconds }
    }

    /// Seconds that a choice costs beside keeping everything. One that keeps less does not cost less: where it seems to, the
    /// clock was disturbed.
    fn cost(&self, block: &BlockProfile, choice: BlockChoice) -> f64 {
        let time = |m: &Isolated| (m.forward + m.backward).as_secs_f64();
        let least = block.choices.first().map_or(0.0, |(_, m)| time(m));
        let up_to = block.choices.iter().take_while(|(c, _)| *c <= choice);
        up_to.map(|(_, m)| time(m) - least).fold(0.0, f64::max)
    }

    /// Seconds of forward and backward of all blocks, everything kept (or, where that did not fit, as little as
    /// possible run again).
    pub fn blocks_seconds(&self) -> f64 {
        let first = self.blocks.iter().filter_map(|b| b.choices.first());
        first.map(|(_, m)| (m.forward + m.backward).as_secs_f64()).sum()
    }

    fn tick(&self) -> f64 {
        (self.blocks_seconds() / TICKS).max(1e-9)
    }

    /// As people read it.
    pub fn blocks(&self) -> Vec<profile::Block> {
        let one = |block: &BlockProfile| profile::Block {
            name: block.name.clone(),
            forward_seconds: block.choices.first().map_or(0.0, |(_, m)| m.forward.as_secs_f64()),
            choices: block
                .choices
                .iter()
                .map(|(choice, m)| profile::Choice {
                    choice: *choice,
                    kept_bytes: holds(block, m, None),
                    forward_bytes: m.there,
                    backward_bytes: m.back,
                    backward_seconds: m.backward.as_secs_f64(),
                    recompute_seconds: self.cost(block, *choice),
                })
                .collect(),
        };
        self.blocks.iter().map(one).collect()
    }
}

/// Bytes held from a block's forward to its backward: its own, and those of its inputs that it or the block before
/// keeps.
fn holds(block: &BlockProfile, measured: &Isolated, before: Option<&Isolated>) -> u64 {
    let kept =
        |i: usize| measured.inputs.get(i) == Some(&true) || before.is_some_and(|b| b.outputs.get(i) == Some(&true));
    measured.inner + (0..).zip(&block.inputs).filter(|(i, _)| kept(*i)).map(|(_, size)| size).sum::<u64>()
}

fn kept_outputs(block: &BlockProfile, measured: &Isolated) -> u64 {
    measured.outputs.iter().zip(&block.outputs).filter(|(kept, _)| **kept).map(|(_, size)| size).sum()
}

/// For each block, the blocks that keep and need the same bytes under every choice, itself included.
fn kinds(measured: &[Measured]) -> Vec<Vec<usize>> {
    let bytes = |m: &Measured| {
        let choices =
            m.choices.iter().map(|(c, i)| (*c, i.inner, i.inputs.clone(), i.outputs.clone(), i.there, i.back));
        (m.inputs.clone(), m.outputs.clone(), choices.collect::<Vec<_>>())
    };
    let signatures: Vec<_> = measured.iter().map(bytes).collect();
    let equals = |i: usize| (0..measured.len()).filter(|j| signatures[*j] == signatures[i]).collect();
    (0..measured.len()).map(equals).collect()
}

/// Gives blocks that are alike the least of their times: what differs between them is what else the machine did.
fn share_times(measured: &mut [Measured]) {
    let kinds = kinds(measured);
    let least = |kind: &[usize], option: usize, f: fn(&Isolated) -> Duration| {
        kind.iter().map(|i| f(&measured[*i].choices[option].1)).min().unwrap_or_default()
    };
    let of = |kind: &[usize], option| (least(kind, option, |m| m.forward), least(kind, option, |m| m.backward));
    let times: Vec<Vec<(Duration, Duration)>> = kinds
        .iter()
        .zip(measured.iter())
        .map(|(kind, m)| (0..m.choices.len()).map(|option| of(kind, option)).collect())
        .collect();
    for (m, times) in measured.iter_mut().zip(times) {
        for ((_, isolated), (forward, backward)) in m.choices.iter_mut().zip(times) {
            (isolated.forward, isolated.backward) = (forward, backward);
        }
    }
}
