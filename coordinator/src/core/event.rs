//! Facts: what the journal holds, as domain types.

pub(super) mod planned;

use std::sync::Arc;

use fleet_common::id::{AgentId, Attempt, CampaignName, CellId, SlotId, TrialId};
use fleet_common::lease::{Holder, Release};
use fleet_common::plan::{Kind, Kinds, SettingsText, Texts};
use fleet_common::record::OutcomeClass;
use fleet_common::spec::{Output, Priority, Select};
use fleet_common::telemetry::Seal;
use fleet_common::wire::v1::lease_released::Cause;
use fleet_common::wire::{self, WireError, v1};

use super::resumable::Resumable;
use crate::scheduler::Figures;

/// Something that became true.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A campaign was submitted, or submitted again with another file.
    CampaignSubmitted(Box<Submission>),
    /// A campaign was called off.
    CampaignCancelled {
        /// Which.
        name: CampaignName,
    },
    /// A trial was lent to a slot.
    LeaseGranted {
        /// Which.
        trial: TrialId,
        /// Under which number.
        attempt: Attempt,
        /// To whom.
        holder: Holder,
    },
    /// The holder of the latest attempt turned out to be still at work.
    LeaseResumed {
        /// Which trial.
        trial: TrialId,
        /// The attempt.
        attempt: Attempt,
        /// The holder.
        holder: Holder,
    },
    /// A lease was taken back or given back.
    LeaseReleased {
        /// Which trial.
        trial: TrialId,
        /// Which attempt ended.
        attempt: Attempt,
        /// Why.
        cause: Release,
        /// Why, in words.
        reason: String,
    },
    /// A trial has its record.
    TrialRecorded {
        /// Which.
        trial: TrialId,
        /// The attempt that made it.
        attempt: Attempt,
        /// Class of the outcome.
        class: OutcomeClass,
        /// The record's document.
        record: Vec<u8>,
        /// Its samples.
        seal: Seal,
        /// What the scheduler learns from it.
        figures: Figures,
    },
    /// A former holder's record came late; it is kept outside the statistics.
    ReportSuperseded {
        /// Which trial.
        trial: TrialId,
        /// The late attempt.
        attempt: Attempt,
        /// The record's document.
        record: Vec<u8>,
    },
    /// An attempt took energy that is in no record.
    EnergyWasted {
        /// Which trial.
        trial: TrialId,
        /// Which attempt.
        attempt: Attempt,
        /// The document.
        waste: Vec<u8>,
    },
    /// A state to go on from is in the artifact store.
    StateSaved {
        /// Of which trial.
        trial: TrialId,
        /// The state.
        state: Resumable,
    },
    /// A trial was given up: it lost its agents too often.
    TrialGivenUp {
        /// Which.
        trial: TrialId,
        /// How often.
        losses: u32,
        /// The latest loss's reason.
        reason: String,
    },
    /// An ended trial was opened again.
    TrialRetried {
        /// Which.
        trial: TrialId,
        /// For which campaign: it wants the trial again.
        campaign: CampaignName,
    },
    /// Records of a set that is being imported; they mean nothing before [`Event::SetImported`].
    ImportedPart {
        /// SHA-256 of the set's content.
        content: String,
        /// Number of the first of these records in the set.
        first: u64,
        /// The documents.
        records: Vec<Vec<u8>>,
    },
    /// All records of a set are there: it has a name from now on.
    SetImported {
        /// The name.
        name: CampaignName,
        /// SHA-256 of its content.
        content: String,
        /// How many records it has.
        records: u64,
        /// The file that it came from.
        file_name: String,
    },
    /// Nothing new runs on an agent's slots any more.
    SlotsDrained {
        /// Whose.
        agent: AgentId,
        /// Which; `None`: all, also those that come later.
        slot: Option<SlotId>,
        /// Why.
        reason: String,
        /// Its agent found something wrong with the device; otherwise an operator wanted it.
        fault: bool,
    },
    /// The end of that.
    SlotsUndrained {
        /// Whose.
        agent: AgentId,
        /// Which; `None`: all.
        slot: Option<SlotId>,
    },
}

/// What a campaign asks for, as it was planned: replay must not depend on the planner's version.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The campaign.
    pub name: CampaignName,
    /// Its file.
    pub toml: String,
    /// Its cells.
    pub cells: Vec<CellEntry>,
    /// Its trials.
    pub trials: Vec<TrialId>,
    /// Combinations left out, as JSON.
    pub excluded_json: Vec<String>,
    /// The planner's warnings.
    pub warnings: Vec<String>,
    /// What agents keep.
    pub keep: Output,
    /// Where and when its trials run.
    pub scheduling: Scheduling,
}

/// What the scheduler is told of a campaign.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scheduling {
    /// Its share beside others.
    pub priority: Priority,
    /// Where its trials may run.
    pub select: Select,
    /// What its cells have in common; empty where an earlier version did not plan it.
    pub kinds: Kinds,
}

/// A cell as the coordinator hands it out. What cells have in common is kept once: there may be a million.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellEntry {
    /// Hash of the settings.
    pub id: CellId,
    /// Canonical JSON of the settings.
    pub settings: SettingsText,
    /// The data set's name or path.
    pub dataset: Arc<str>,
}

impl Event {
    /// The event as the journal holds it.
    pub fn to_journal(&self, at_unix_ms: u64) -> v1::JournalEvent {
        use v1::journal_event::Event as E;
        // The one that may be large is not copied first.
        if let Self::CampaignSubmitted(s) = self {
            return v1::JournalEvent { at_unix_ms, event: Some(submitted(s)) };
        }
        let event = match self.clone() {
            Self::CampaignSubmitted(s) => submitted(&s),
            Self::CampaignCancelled { name } => E::CampaignCancelled(v1::CampaignCancelled { name: name.into() }),
            Self::LeaseGranted { trial, attempt, holder } => E::LeaseGranted(v1::LeaseGranted {
                trial: Some((&trial).into()),
                attempt: attempt.get(),
                agent: holder.agent.into(),
                slot: holder.slot.into(),
            }),
            Self::LeaseResumed { trial, attempt, holder } => E::LeaseResumed(v1::LeaseResumed {
                trial: Some((&trial).into()),
                attempt: attempt.get(),
                agent: holder.agent.into(),
                slot: holder.slot.into(),
            }),
            Self::LeaseReleased { trial, attempt, cause, reason } => E::LeaseReleased(v1::LeaseReleased {
                trial: Some((&trial).into()),
                attempt: attempt.get(),
                reason,
                cause: to_cause(cause).into(),
            }),
            Self::TrialRecorded { trial, attempt, class, record, seal, figures } => {
                E::TrialRecorded(v1::TrialRecorded {
                    trial: Some((&trial).into()),
                    attempt: attempt.get(),
                    record_json: record,
                    samples_stored: seal.stored,
                    samples_missing: seal.missing,
                    samples_crc32: seal.crc32,
                    outcome_class: class.name().to_owned(),
                    peak_bytes: figures.peak_bytes,
                    seconds: figures.seconds,
                    hardware: figures.hardware.map(String::from).unwrap_or_default(),
                    cap_bytes: figures.cap_bytes,
                })
            }
            Self::ReportSuperseded { trial, attempt, record } => E::ReportSuperseded(v1::ReportSuperseded {
                trial: Some((&trial).into()),
                attempt: attempt.get(),
                record_json: record,
            }),
            Self::EnergyWasted { trial, attempt, waste } => E::EnergyWasted(v1::EnergyWasted {
                trial: Some((&trial).into()),
                attempt: attempt.get(),
                waste_json: waste,
            }),
            Self::StateSaved { trial, state } => E::ResumableStateSaved(v1::ResumableStateSaved {
                trial: Some((&trial).into()),
                state: Some((&state).into()),
            }),
            Self::TrialGivenUp { trial, losses, reason } => {
                E::TrialGivenUp(v1::TrialGivenUp { trial: Some((&trial).into()), losses, reason })
            }
            Self::TrialRetried { trial, campaign } => {
                E::TrialRetried(v1::TrialRetried { trial: Some((&trial).into()), campaign: campaign.into() })
            }
            Self::ImportedPart { content, first, records } => {
                E::ImportedPart(v1::ImportedPart { content, first, record_json: records })
            }
            Self::SetImported { name, content, records, file_name } => {
                E::SetImported(v1::SetImported { name: name.into(), content, records, file_name })
            }
            Self::SlotsDrained { agent, slot, reason, fault } => E::SlotsDrained(v1::SlotsDrained {
                agent: agent.into(),
                slot: slot.map(String::from).unwrap_or_default(),
                reason,
                fault,
            }),
            Self::SlotsUndrained { agent, slot } => E::SlotsUndrained(v1::SlotsUndrained {
                agent: agent.into(),
                slot: slot.map(String::from).unwrap_or_default(),
            }),
        };
        v1::JournalEvent { at_unix_ms, event: Some(event) }
    }

    /// The event that a journal entry holds.
    ///
    /// # Errors
    /// The entry lacks a part, or is of a kind that a later version wrote.
    pub fn from_journal(entry: v1::JournalEvent) -> Result<Self, WireError> {
        use v1::journal_event::Event as E;
        let holder = |agent: String, slot: String| -> Result<Holder, WireError> {
            Ok(Holder { agent: agent.parse::<AgentId>()?, slot: slot.parse::<SlotId>()? })
        };
        let event = entry.event.ok_or(WireError::Missing("an event that this version knows"))?;
        Ok(match event {
            E::CampaignSubmitted(s) => Self::CampaignSubmitted(Box::new(to_submission(s)?)),
            E::CampaignPlanned(p) => Self::CampaignSubmitted(Box::new(planned::to_submission(p)?)),
            E::CampaignCancelled(c) => Self::CampaignCancelled { name: c.name.parse()? },
            E::LeaseGranted(l) => Self::LeaseGranted {
                trial: wire::trial(l.trial)?,
                attempt: l.attempt.try_into()?,
                holder: holder(l.agent, l.slot)?,
            },
            E::LeaseResumed(l) => Self::LeaseResumed {
                trial: wire::trial(l.trial)?,
                attempt: l.attempt.try_into()?,
                holder: holder(l.agent, l.slot)?,
            },
            E::LeaseReleased(l) => Self::LeaseReleased {
                cause: from_cause(l.cause())?,
                trial: wire::trial(l.trial)?,
                attempt: l.attempt.try_into()?,
                reason: l.reason,
            },
            E::TrialRecorded(r) => Self::TrialRecorded {
                trial: wire::trial(r.trial)?,
                attempt: r.attempt.try_into()?,
                class: OutcomeClass::from_name(&r.outcome_class)
                    .ok_or_else(|| WireError::Invalid(format!("an unknown outcome \"{}\"", r.outcome_class)))?,
                record: r.record_json,
                seal: Seal { stored: r.samples_stored, missing: r.samples_missing, crc32: r.samples_crc32 },
                figures: Figures {
                    peak_bytes: r.peak_bytes,
                    seconds: r.seconds,
                    hardware: Some(r.hardware).filter(|h| !h.is_empty()).map(|h| h.parse()).transpose()?,
                    cap_bytes: r.cap_bytes,
                },
            },
            E::ReportSuperseded(r) => Self::ReportSuperseded {
                trial: wire::trial(r.trial)?,
                attempt: r.attempt.try_into()?,
                record: r.record_json,
            },
            E::EnergyWasted(w) => {
                Self::EnergyWasted { trial: wire::trial(w.trial)?, attempt: w.attempt.try_into()?, waste: w.waste_json }
            }
            E::ResumableStateSaved(s) => Self::StateSaved {
                trial: wire::trial(s.trial)?,
                state: s.state.ok_or(WireError::Missing("a state"))?.try_into()?,
            },
            E::TrialGivenUp(g) => {
                Self::TrialGivenUp { trial: wire::trial(g.trial)?, losses: g.losses, reason: g.reason }
            }
            E::TrialRetried(r) => Self::TrialRetried { trial: wire::trial(r.trial)?, campaign: r.campaign.parse()? },
            E::ImportedPart(p) => Self::ImportedPart { content: p.content, first: p.first, records: p.record_json },
            E::SetImported(s) => Self::SetImported {
                name: s.name.parse()?,
                content: s.content,
                records: s.records,
                file_name: s.file_name,
            },
            E::SlotsDrained(d) => {
                Self::SlotsDrained { agent: d.agent.parse()?, slot: slot(d.slot)?, reason: d.reason, fault: d.fault }
            }
            E::SlotsUndrained(d) => Self::SlotsUndrained { agent: d.agent.parse()?, slot: slot(d.slot)? },
        })
    }
}

/// A submission as the journal holds it: cells packed, unless trials are among them whose cells are not.
fn submitted(s: &Submission) -> v1::journal_event::Event {
    use v1::journal_event::Event as E;
    let packed = planned::pack(&s.cells, &s.trials);
    let (cells, trials) = match &packed {
        Some(_) => (Vec::new(), Vec::new()),
        None => (s.cells.iter().map(from_cell).collect(), s.trials.iter().map(Into::into).collect()),
    };
    let rest = v1::CampaignSubmitted {
        name: s.name.to_string(),
        toml: s.toml.clone(),
        cells,
        trials,
        excluded_json: s.excluded_json.clone(),
        warnings: s.warnings.clone(),
        keep_weights: s.keep.weights,
        keep_adapter: s.keep.adapter,
        priority: s.scheduling.priority.get().into(),
        select_json: match s.scheduling.select.is_everything() {
            true => String::new(),
            false => fleet_common::canonical::json(&s.scheduling.select),
        },
        kinds: s.scheduling.kinds.kinds.iter().cloned().map(to_planned).collect(),
        kind_of_cell: s.scheduling.kinds.of_cell.clone(),
    };
    match packed {
        Some((cells, trials)) => {
            E::CampaignPlanned(v1::CampaignPlanned { rest: Some(rest), cells: Some(cells), trials })
        }
        None => E::CampaignSubmitted(rest),
    }
}

fn to_submission(s: v1::CampaignSubmitted) -> Result<Submission, WireError> {
    let mut texts = Texts::default();
    Ok(Submission {
        name: s.name.parse()?,
        toml: s.toml,
        cells: s.cells.into_iter().map(|c| to_cell(c, &mut texts)).collect::<Result<_, WireError>>()?,
        trials: s.trials.into_iter().map(TryInto::try_into).collect::<Result<_, WireError>>()?,
        excluded_json: s.excluded_json,
        warnings: s.warnings,
        keep: Output { weights: s.keep_weights, adapter: s.keep_adapter },
        scheduling: Scheduling {
            priority: i64::from(s.priority).try_into().map_err(WireError::Invalid)?,
            select: match s.select_json.as_str() {
                "" => Select::default(),
                json => serde_json::from_str(json).map_err(|e| WireError::Invalid(e.to_string()))?,
            },
            kinds: Kinds { kinds: s.kinds.into_iter().map(from_planned).collect(), of_cell: s.kind_of_cell },
        },
    })
}

fn from_cell(cell: &CellEntry) -> v1::PlannedCell {
    let CellEntry { id, settings, dataset } = cell;
    v1::PlannedCell { cell: id.to_string(), settings_json: settings.text(), dataset: dataset.to_string() }
}

pub(super) fn to_cell(cell: v1::PlannedCell, texts: &mut Texts) -> Result<CellEntry, WireError> {
    let v1::PlannedCell { cell, settings_json, dataset } = cell;
    let settings = texts.share(SettingsText::of(&settings_json));
    Ok(CellEntry { id: cell.parse()?, settings, dataset: dataset.into() })
}

fn slot(text: String) -> Result<Option<SlotId>, WireError> {
    Ok(Some(text).filter(|t| !t.is_empty()).map(|t| t.parse()).transpose()?)
}

fn to_planned(kind: Kind) -> v1::PlannedKind {
    let Kind { key, family, budget_bytes, peak_bytes, work } = kind;
    v1::PlannedKind { key, family, budget_bytes, peak_bytes, work }
}

fn from_planned(kind: v1::PlannedKind) -> Kind {
    let v1::PlannedKind { key, family, budget_bytes, peak_bytes, work } = kind;
    // What is not a positive number is unknown.
    let work = if work.is_finite() { work.max(0.0) } else { 0.0 };
    Kind { key, family, budget_bytes, peak_bytes, work }
}

pub(super) const fn to_cause(cause: Release) -> Cause {
    match cause {
        Release::Silent => Cause::Silent,
        Release::Restarted => Cause::Restarted,
        Release::Crashed => Cause::Crashed,
        Release::Unfit => Cause::Unfit,
        Release::Returned => Cause::Returned,
    }
}

pub(super) fn from_cause(cause: Cause) -> Result<Release, WireError> {
    Release::ALL
        .into_iter()
        .find(|r| to_cause(*r) == cause)
        .ok_or(WireError::Missing("a cause that this version knows"))
}
