//! What the two sides say to each other, as the core and the agent's half take it. The gRPC edges do the same with
//! generated messages in between.

use fleet_agent::half::{Answer as Taken, Held, Here, Input as HalfInput, Pulled, Renewal, Told, Unwanted};
use fleet_common::id::{AgentId, HardwareClass, SlotId};
use fleet_common::lease::Holder;
use fleet_common::record::OutcomeClass;
use fleet_common::telemetry::Seal;
use fleet_coordinator::core::{Claim, Input, Progress, Reply, Reported, SlotAbout, SlotInfo, Token, Verdict};
use fleet_coordinator::scheduler::Figures;

/// A record as the simulation's workers make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub class: OutcomeClass,
    pub bytes: Vec<u8>,
}

/// A question of an agent.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Introduce { number: u64, slots: Vec<(SlotId, HardwareClass)>, held: Vec<Held>, here: Here },
    Renew(Vec<Held>, Option<Told>),
    Pull(SlotId),
    Report(Held, Record),
    Release(Held, String),
}

/// How long an agent's question for work may stay open.
const WAIT_MS: u64 = 30_000;
/// How long an answer may take.
const ANSWER_MS: u64 = 15_000;

impl Request {
    /// When the agent stops waiting.
    pub(crate) fn patience_ms(&self) -> u64 {
        match self {
            Self::Pull(_) => WAIT_MS + ANSWER_MS,
            Self::Release(..) => 2_000,
            Self::Introduce { .. } | Self::Renew(..) | Self::Report(..) => ANSWER_MS,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Introduce { .. } => "introduction",
            Self::Renew(..) => "renewal",
            Self::Pull(_) => "question for work",
            Self::Report(..) => "report",
            Self::Release(..) => "release",
        }
    }

    /// As the core takes it.
    pub(crate) fn input(self, token: Token, agent: &AgentId) -> Input {
        let agent = agent.clone();
        match self {
            Self::Introduce { number, slots, held, here } => Input::Register {
                token,
                agent,
                version: "simulated".into(),
                host: "simulated".into(),
                number,
                slots: slots
                    .into_iter()
                    .map(|(slot, hardware)| SlotInfo {
                        slot,
                        hardware,
                        memory_bytes: 1 << 34,
                        about: SlotAbout::default(),
                    })
                    .collect(),
                held: held.into_iter().map(claim).collect(),
                content: (*here).clone(),
            },
            Self::Renew(held, told) => {
                let running = held.into_iter().map(|held| (claim(held), Progress::default())).collect();
                let content = told.map(|told| (told.number, (*told.here).clone()));
                Input::Heartbeat { token, agent, running, content }
            }
            Self::Pull(slot) => Input::Pull { token, holder: Holder { agent, slot }, wait_ms: WAIT_MS },
            Self::Report(held, record) => Input::Report {
                token,
                holder: Holder { agent, slot: held.slot },
                trial: held.trial,
                attempt: held.attempt,
                class: record.class,
                reason: "simulated".into(),
                record: record.bytes,
                seal: Seal::default(),
                figures: Figures::default(),
            },
            Self::Release(held, reason) => Input::Release {
                token,
                holder: Holder { agent, slot: held.slot },
                trial: held.trial,
                attempt: held.attempt,
                reason,
            },
        }
    }

    /// What the half is told of an answer, or of its absence.
    pub(crate) fn answered(&self, reply: Option<&Reply>, renew_every_ms: u64) -> HalfInput {
        match (self, reply) {
            (Self::Introduce { .. }, Some(Reply::Registered(verdicts))) => {
                let every = std::time::Duration::from_millis(renew_every_ms);
                HalfInput::Introduced(Some((every, unwanted(verdicts))))
            }
            (Self::Introduce { .. }, _) => HalfInput::Introduced(None),
            (Self::Renew(..), Some(Reply::Heartbeat(Some(verdicts)))) => {
                HalfInput::Renewed(Renewal::Heard(unwanted(verdicts)))
            }
            (Self::Renew(..), Some(Reply::Heartbeat(None))) => HalfInput::Renewed(Renewal::RegisterAgain),
            (Self::Renew(..), _) => HalfInput::Renewed(Renewal::Failed),
            (Self::Pull(slot), reply) => HalfInput::Pulled(
                slot.clone(),
                match reply {
                    Some(Reply::Leased(Some(offer))) => Pulled::Granted(offer.trial.clone(), offer.attempt),
                    Some(_) => Pulled::Nothing,
                    None => Pulled::Failed,
                },
            ),
            (Self::Report(held, _), Some(Reply::Reported(_))) => HalfInput::Reported(held.clone(), Taken::Taken),
            (Self::Report(held, _), _) => HalfInput::Reported(held.clone(), Taken::Failed),
            (Self::Release(held, _), _) => HalfInput::Released(held.clone()),
        }
    }
}

fn claim(held: Held) -> Claim {
    Claim { trial: held.trial, attempt: held.attempt, slot: held.slot }
}

fn unwanted(verdicts: &[Verdict]) -> Vec<Unwanted> {
    let of = |v: &Verdict| {
        let reason = v.keep.clone().err()?;
        Some(Unwanted { trial: v.claim.trial.clone(), attempt: v.claim.attempt, reason })
    };
    verdicts.iter().filter_map(of).collect()
}

/// A reply in a few words, for the log.
pub(crate) fn in_words(reply: &Reply) -> String {
    match reply {
        Reply::Registered(verdicts) => format!("registered, {}", judged(verdicts)),
        Reply::Heartbeat(None) => "register again".into(),
        Reply::Heartbeat(Some(verdicts)) => format!("renewed, {}", judged(verdicts)),
        Reply::Leased(None) => "no work".into(),
        Reply::Leased(Some(offer)) => format!("lease of {} attempt {}", short(&offer.trial), offer.attempt),
        Reply::Reported(reported) => match reported {
            Reported::Recorded => "recorded".into(),
            Reported::AlreadyRecorded => "already recorded".into(),
            Reported::Superseded => "superseded".into(),
            Reported::NotWanted => "not wanted".into(),
        },
        Reply::Released => "released".into(),
        other => format!("{other:?}"),
    }
}

fn judged(verdicts: &[Verdict]) -> String {
    let words: Vec<String> = verdicts
        .iter()
        .map(|v| {
            let what = format!("{} attempt {}", short(&v.claim.trial), v.claim.attempt);
            match &v.keep {
                Ok(()) => format!("keep {what}"),
                Err(why) => format!("stop {what}: {why}"),
            }
        })
        .collect();
    words.join("; ")
}

/// Enough of a trial's id to tell it from others.
pub(crate) fn short(trial: &fleet_common::id::TrialId) -> String {
    let cell = trial.cell.to_string();
    let hardware = trial.hardware.as_ref().map_or(String::new(), |h| format!("@{h}"));
    format!("{}{hardware}/{}", &cell[..cell.len().min(6)], trial.repeat)
}
