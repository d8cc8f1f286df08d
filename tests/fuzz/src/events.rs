//! Stories: events in any order, of few trials, agents and campaigns, so that they meet.

use fleet_common::lease::Millis;
use fleet_common::wire::v1;
use fleet_common::wire::v1::journal_event::Event as E;
use fleet_coordinator::core::{Event, State};

use crate::bytes::Choices;
use crate::wire::snapshot;

const CELLS: [&str; 3] =
    ["00000000000000000000000000000000", "11111111111111111111111111111111", "fffffffffffffffffffffffffffffff0"];
const NAMES: [&str; 3] = ["a", "b", "c-1"];
const AGENTS: [&str; 2] = ["agent-1", "agent-2"];
const SLOTS: [&str; 3] = ["cpu", "cuda:0", "cuda:255"];
const CLASSES: [&str; 4] = ["completed", "out_of_memory", "failed", "not finite"];
const REASONS: [&str; 2] = ["", "it was silent"];
const SELECTIONS: [&str; 3] = ["", "{}", r#"{"model":["RTX*"],"memory_at_least":1024}"#];

/// A journal's events → a state. One that does not fit leaves it as it was, a slot's lease is its holder's, and the
/// state is the same behind a snapshot.
pub fn story(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mut state = State::default();
    for at_unix_ms in 0..256 {
        if choices.is_empty() {
            break;
        }
        let Ok(event) = Event::from_journal(event(&mut choices, at_unix_ms)) else { continue };
        let before = state.clone();
        if state.apply(&event, Millis(0), at_unix_ms).is_err() {
            assert_eq!(state, before, "{event:?} does not fit, and changes nothing");
        }
        for (holder, trial) in state.leases() {
            let entry = state.trial(trial).expect("a trial that is held is known");
            assert_eq!(entry.life.holder(), Some(holder));
        }
    }
    let there = snapshot(&state).expect("our own snapshot");
    assert_eq!(there, state);
}

/// The next event, as the journal has it.
pub(crate) fn event(c: &mut Choices<'_>, at_unix_ms: u64) -> v1::JournalEvent {
    let kind = c.u8();
    // The last two came later: inputs that were kept before still mean what they meant.
    let event = match if kind < 240 { kind % 14 } else { 14 + kind % 2 } {
        0 => E::CampaignSubmitted(submitted(c)),
        1 => E::CampaignCancelled(v1::CampaignCancelled { name: c.pick(&NAMES).to_owned() }),
        2 | 3 => {
            let (trial, attempt) = (trial(c), attempt(c));
            E::LeaseGranted(v1::LeaseGranted { trial, attempt, agent: agent(c), slot: c.pick(&SLOTS).to_owned() })
        }
        4 => {
            let (trial, attempt) = (trial(c), attempt(c));
            E::LeaseResumed(v1::LeaseResumed { trial, attempt, agent: agent(c), slot: c.pick(&SLOTS).to_owned() })
        }
        5 => {
            let (trial, attempt, cause) = (trial(c), attempt(c), i32::from(c.u8() % 7));
            E::LeaseReleased(v1::LeaseReleased { trial, attempt, reason: c.pick(&REASONS).to_owned(), cause })
        }
        6 => E::TrialRecorded(v1::TrialRecorded {
            trial: trial(c),
            attempt: attempt(c),
            record_json: c.some(8).to_vec(),
            outcome_class: c.pick(&CLASSES).to_owned(),
            peak_bytes: c.number(),
            seconds: real(c),
            hardware: c.pick(&["", "A", "B 1"]).to_owned(),
            cap_bytes: c.number(),
            samples_stored: c.number(),
            ..Default::default()
        }),
        7 => {
            E::ReportSuperseded(v1::ReportSuperseded { trial: trial(c), attempt: attempt(c), record_json: Vec::new() })
        }
        8 => E::EnergyWasted(v1::EnergyWasted { trial: trial(c), attempt: attempt(c), waste_json: c.some(8).to_vec() }),
        9 => E::TrialGivenUp(v1::TrialGivenUp {
            trial: trial(c),
            losses: attempt(c),
            reason: c.pick(&REASONS).to_owned(),
        }),
        10 => E::TrialRetried(v1::TrialRetried { trial: trial(c), campaign: c.pick(&NAMES).to_owned() }),
        11 => E::ImportedPart(v1::ImportedPart {
            content: c.pick(&NAMES).to_owned(),
            first: c.number(),
            record_json: vec![Vec::new(); usize::from(c.u8() % 8)],
        }),
        12 => E::SetImported(v1::SetImported {
            name: c.pick(&NAMES).to_owned(),
            content: c.pick(&NAMES).to_owned(),
            records: c.number(),
            file_name: "records.jsonl".to_owned(),
        }),
        14 => E::ResumableStateSaved(v1::ResumableStateSaved {
            trial: trial(c),
            state: Some(v1::ResumableState {
                attempt: attempt(c),
                step: attempt(c),
                artifact: c.pick(&NAMES).to_owned(),
                bytes: c.number(),
                hardware: c.pick(&["", "A", "B 1"]).to_owned(),
            }),
        }),
        15 => planned(c),
        _ => {
            let (agent, slot) = (agent(c), c.pick(&["", "cpu", "cuda:0"]).to_owned());
            match c.u8() % 2 {
                0 => E::SlotsUndrained(v1::SlotsUndrained { agent, slot }),
                _ => E::SlotsDrained(v1::SlotsDrained {
                    agent,
                    slot,
                    reason: c.pick(&REASONS).to_owned(),
                    fault: c.u8() % 2 == 1,
                }),
            }
        }
    };
    v1::JournalEvent { at_unix_ms, event: Some(event) }
}

fn submitted(c: &mut Choices<'_>) -> v1::CampaignSubmitted {
    let chosen = |c: &mut Choices<'_>| {
        let mask = c.u8();
        (0..8u8).filter(move |bit| mask >> bit & 1 == 1)
    };
    let cells: Vec<v1::PlannedCell> = chosen(c)
        .map(|n| v1::PlannedCell {
            cell: CELLS[usize::from(n) % CELLS.len()].to_owned(),
            settings_json: "{}".to_owned(),
            dataset: "textures".to_owned(),
        })
        .collect();
    let kinds: Vec<v1::PlannedKind> = (0..c.u8() % 4)
        .map(|_| v1::PlannedKind {
            key: c.pick(&NAMES).to_owned(),
            family: c.pick(&NAMES).to_owned(),
            budget_bytes: Some(c.number()).filter(|n| *n > 0),
            peak_bytes: c.number(),
            work: real(c),
        })
        .collect();
    v1::CampaignSubmitted {
        name: c.pick(&NAMES).to_owned(),
        trials: (0..c.u8() % 8).filter_map(|_| trial(c)).collect(),
        kind_of_cell: cells.iter().map(|_| u32::from(c.u8() % 5)).collect(),
        cells,
        kinds,
        priority: c.u8() as i8 as i32,
        select_json: c.pick(&SELECTIONS).to_owned(),
        keep_weights: c.u8() % 2 == 1,
        ..Default::default()
    }
}

/// A submission in columns, mostly of one length.
fn planned(c: &mut Choices<'_>) -> E {
    let rest = v1::CampaignSubmitted { cells: Vec::new(), trials: Vec::new(), ..submitted(c) };
    let n = usize::from(c.u8() % 4);
    let ids = (0..n).flat_map(|n| [[0; 16], [0x11; 16], [0xff; 16]][n % 3]).collect();
    let mut column = |most: u8| -> Vec<u32> { (0..n).map(|_| u32::from(c.u8() % most)).collect() };
    let (text_of, dataset_of) = (column(3), column(3));
    let short = usize::from(c.u8() == 255);
    let seeds = (short..n).map(|_| c.number()).collect();
    let text = |front: &str, seeded| v1::SettingsText { front: front.to_owned(), behind: "}".to_owned(), seeded };
    let cells = v1::PlannedCells {
        ids,
        texts: vec![text("{", false), text("{\"seed\":", true)],
        text_of,
        datasets: vec!["textures".to_owned(), "dtd".to_owned()],
        dataset_of,
        seeds,
    };
    let run = |c: &mut Choices<'_>| v1::TrialRun {
        first: attempt(c),
        count: attempt(c),
        repeat: attempt(c),
        hardware: c.pick(&[None, Some("A"), Some("B 1")]).map(str::to_owned),
    };
    let trials = (0..c.u8() % 4).map(|_| run(c)).collect();
    E::CampaignPlanned(v1::CampaignPlanned { rest: Some(rest), cells: Some(cells), trials })
}

#[allow(clippy::unnecessary_wraps, reason = "as messages have it")]
fn trial(c: &mut Choices<'_>) -> Option<v1::TrialId> {
    let n = c.u8();
    let hardware = [None, Some("A"), Some("B 1")][usize::from(n / 8) % 3];
    Some(v1::TrialId {
        cell: CELLS[usize::from(n) % CELLS.len()].to_owned(),
        repeat: u32::from(n / 4 % 2),
        hardware: hardware.map(str::to_owned),
    })
}

fn attempt(c: &mut Choices<'_>) -> u32 {
    match c.u8() {
        255 => u32::MAX,
        n => u32::from(n % 4),
    }
}

fn agent(c: &mut Choices<'_>) -> String {
    c.pick(&AGENTS).to_owned()
}

/// A number: a usual one, or one of those that arithmetic stumbles over.
fn real(c: &mut Choices<'_>) -> f64 {
    match c.u8() {
        0 => 0.0,
        1 => f64::NAN,
        2 => f64::INFINITY,
        3 => f64::NEG_INFINITY,
        4 => f64::MIN_POSITIVE,
        5 => f64::MAX,
        6 => f64::from_bits(c.u64()),
        n => f64::from(n) / 4.0,
    }
}
