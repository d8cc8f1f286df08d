//! Any valid sequence of events, of every kind.

use fleet_common::id::{Attempt, TrialId};
use fleet_common::lease::{Holder, Millis, Release};
use fleet_common::plan::{Kind, Kinds, SettingsText};
use fleet_common::record::OutcomeClass;
use fleet_common::spec::Select;
use fleet_common::telemetry::Seal;
use fleet_common::units::Bytes;
use proptest::prelude::*;

use crate::core::{CellEntry, Event, Resumable, Scheduling, State, Submission};
use crate::scheduler::Figures;

/// What an event is made from: kind, trial, whom or what, how much.
pub(super) type Seed = (u8, u8, u8, u8);

pub(super) fn seeds(most: usize) -> impl Strategy<Value = Vec<Seed>> {
    prop::collection::vec((0u8..15, 0u8..6, 0u8..3, any::<u8>()), 0..most)
}

pub(super) fn trial(n: u8) -> TrialId {
    let class = ["", "/NVIDIA L4"][usize::from(n % 2)];
    format!("{:032x}/{}{class}", n / 2, n % 3).parse().expect("an id")
}

/// The events of these seeds that follow from those before; the time of each is its place.
pub(super) fn events(seeds: &[Seed]) -> Vec<(u64, Event)> {
    let mut state = State::default();
    let mut events = Vec::new();
    let mut add = |state: &mut State, event: Event| {
        let at = 1000 + events.len() as u64;
        // A slot holds one trial at a time, which the core sees to.
        let is_busy = match &event {
            Event::LeaseGranted { holder, .. } | Event::LeaseResumed { holder, .. } => state.held_by(holder).is_some(),
            _ => false,
        };
        // The same of what is opened again: it is the campaign's.
        let is_anothers = match &event {
            Event::TrialRetried { trial, campaign } => {
                state.campaigns().get(campaign).is_none_or(|c| !c.trials.contains(trial))
            }
            _ => false,
        };
        if !is_anothers && !is_busy && state.apply(&event, Millis(0), at).is_ok() {
            events.push((at, event));
        }
    };
    add(&mut state, submission(0, 0, 63));
    for seed in seeds {
        let event = event(&state, *seed);
        add(&mut state, event);
    }
    events
}

fn submission(name: u8, toml: u8, which: u8) -> Event {
    let trials: Vec<TrialId> = (0..6).filter(|n| which & (1 << n) != 0).map(trial).collect();
    // A cell without settings is none that a planner makes, and nothing in the fold forbids it.
    let cells: Vec<CellEntry> = trials
        .iter()
        .skip(1)
        .map(|t| CellEntry {
            id: t.cell.clone(),
            settings: SettingsText::of(&format!("{{\"seed\":{toml}}}")),
            dataset: "dtd".into(),
        })
        .collect();
    Event::CampaignSubmitted(Box::new(Submission {
        name: campaign(name),
        toml: format!("# {toml}"),
        cells: cells.clone(),
        trials,
        excluded_json: vec![format!("[{toml}]")],
        warnings: vec!["mind".into()],
        keep: fleet_common::spec::Output { weights: toml.is_multiple_of(2), adapter: toml.is_multiple_of(3) },
        scheduling: scheduling(toml, cells),
    }))
}

/// What the scheduler is told; of every third submission nothing, as by earlier versions.
fn scheduling(toml: u8, cells: Vec<CellEntry>) -> Scheduling {
    if toml.is_multiple_of(3) {
        return Scheduling::default();
    }
    let kind = |n: u8| Kind {
        key: format!("{n:016x}"),
        family: format!("family {}", n % 2),
        budget_bytes: Some(u64::from(toml)).filter(|b| *b > 50),
        peak_bytes: u64::from(n) << 20,
        work: 0.1 + f64::from(toml),
    };
    Scheduling {
        priority: i64::from(toml % 3).try_into().expect("a priority"),
        select: Select { memory: Some(Bytes(u64::from(toml))), ..Select::default() },
        kinds: Kinds { kinds: (0..3).map(kind).collect(), of_cell: (0..cells.len() as u32).map(|i| i % 3).collect() },
    }
}

fn campaign(n: u8) -> fleet_common::id::CampaignName {
    format!("campaign-{n}").parse().expect("a name")
}

fn event(state: &State, (kind, which, who, extra): Seed) -> Event {
    let trial = trial(which);
    let holder = Holder { agent: format!("agent-{who}").parse().expect("an id"), slot: "cpu".parse().expect("a slot") };
    let life = state.trial(&trial).map(|t| t.life.clone()).unwrap_or_default();
    let attempt = life.attempt.unwrap_or(Attempt::FIRST);
    let record = vec![extra; usize::from(extra)];
    match kind {
        0 => submission(who, extra, extra),
        1 if extra < 60 => Event::CampaignCancelled { name: campaign(who) },
        1..=3 => Event::LeaseGranted { trial, attempt: life.next_attempt(), holder },
        4 => Event::LeaseResumed { trial, attempt, holder },
        5 => {
            let cause = Release::ALL[usize::from(extra) % Release::ALL.len()];
            Event::LeaseReleased { trial, attempt, cause, reason: format!("because {extra}") }
        }
        6 | 7 => {
            let class = OutcomeClass::ALL[usize::from(extra) % OutcomeClass::ALL.len()];
            let seal = Seal { stored: 0, missing: extra.into(), crc32: 7 };
            let figures = Figures {
                peak_bytes: u64::from(extra) << 18,
                seconds: f64::from(extra) * 1.7,
                hardware: Some(format!("class {who}").parse().expect("a class")),
                cap_bytes: u64::from(extra % 7) << 20,
            };
            Event::TrialRecorded { trial, attempt, class, record, seal, figures }
        }
        8 => Event::ReportSuperseded { trial, attempt, record },
        9 => Event::EnergyWasted { trial, attempt, waste: record },
        10 if extra < 128 => Event::TrialGivenUp { trial, losses: 3, reason: "lost".into() },
        10 => Event::TrialRetried { trial, campaign: campaign(who) },
        12 => {
            let slot = Some(holder.slot).filter(|_| extra % 3 > 0);
            Event::SlotsDrained { agent: holder.agent, slot, reason: format!("fan {extra}"), fault: extra < 128 }
        }
        14 => Event::StateSaved {
            trial,
            state: Resumable {
                attempt,
                step: extra.into(),
                artifact: format!("states/{extra}"),
                bytes: extra.into(),
                hardware: format!("class {who}").parse().expect("a class"),
            },
        },
        13 => Event::SlotsUndrained { agent: holder.agent, slot: Some(holder.slot).filter(|_| extra % 3 > 0) },
        _ if extra < 128 => {
            Event::ImportedPart { content: format!("c{who}"), first: u64::from(which), records: vec![record; 2] }
        }
        _ => Event::SetImported {
            name: format!("set-{which}").parse().expect("a name"),
            content: format!("c{who}"),
            records: u64::from(extra % 4),
            file_name: "f".into(),
        },
    }
}

/// What these events add up to.
pub(super) fn fold(events: &[(u64, Event)]) -> State {
    let mut state = State::default();
    for (at, event) in events {
        state.apply(event, Millis(0), *at).expect("fits");
    }
    state
}

#[test]
fn histories_have_every_kind() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let seeds = seeds(200).new_tree(&mut runner).expect("a value").current();
        kinds.extend(events(&seeds).iter().map(|(_, event)| {
            let words = format!("{event:?}");
            words.split([' ', '(']).next().unwrap_or_default().to_owned()
        }));
    }
    assert_eq!(kinds.len(), 15, "{kinds:?}");
}
