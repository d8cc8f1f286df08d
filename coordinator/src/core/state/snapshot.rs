//! State ↔ parts of a snapshot: the one place that knows both. Every struct is taken apart field by field, so that a
//! field that is added and forgotten here does not compile.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fleet_common::canonical;
use fleet_common::id::{AgentId, Attempt, CampaignName, CellId, TrialId};
use fleet_common::lease::{Holder, Millis, Trial, TrialState};
use fleet_common::plan::Texts;
use fleet_common::record::OutcomeClass;
use fleet_common::spec::{Output, Select};
use fleet_common::wire::v1::snapshot_part::Part;
use fleet_common::wire::v1::snapshot_trial::State as Stands;
use fleet_common::wire::{self, WireError, v1};

use super::{Campaign, Names, Past, Standing, State, TrialEntry};
use crate::core::drains::Drains;
use crate::core::event::{CellEntry, from_cause, planned, to_cause, to_cell};
use crate::core::imports::{ImportedSet, Imports};
use crate::core::resumable::Resumable;
use crate::scheduler::{Account, Estimates, KindId, Queue, Rank};

/// Cells or trials of one part: about a megabyte.
const PER_PART: usize = 2048;

impl State {
    /// Gives the state out in parts, in the order in which [`Restored`] needs them.
    ///
    /// # Errors
    /// Whatever `each` fails with.
    pub fn parts<E>(&self, mut each: impl FnMut(Part) -> Result<(), E>) -> Result<(), E> {
        // The queue, the held slots and what stands where follow from the trials and the campaigns.
        let Self {
            campaigns,
            cells,
            trials,
            held: _,
            queue: _,
            submissions,
            imports,
            estimates,
            kinds,
            drains,
            resumables,
            standings: _,
        } = self;
        each(Part::Counts(v1::SnapshotCounts { submissions: *submissions }))?;
        let mut ids: Vec<_> = cells.keys().collect();
        ids.sort_unstable();
        let places: HashMap<_, u32> = ids.iter().copied().zip(1..).collect();
        for some in ids.chunks(PER_PART) {
            let kinds = some.iter().map(|id| kinds.get(id).map_or(0, |kind| kind.number() + 1)).collect();
            let packed = Some(planned::from_cells(some.iter().filter_map(|id| cells.get(id)).map(Arc::as_ref)));
            each(Part::Cells(v1::SnapshotCells { cells: Vec::new(), packed, kinds }))?;
        }
        let mut some = Vec::new();
        for (id, entry) in trials {
            some.push(from_trial(id, entry, places.get(&id.cell).copied()));
            if some.len() == PER_PART {
                each(Part::Trials(v1::SnapshotTrials { trials: std::mem::take(&mut some) }))?;
            }
        }
        each(Part::Trials(v1::SnapshotTrials { trials: some }))?;
        let places: HashMap<_, u32> = trials.keys().zip(0..).collect();
        for (name, campaign) in campaigns {
            each(Part::Campaign(from_campaign(name, campaign, &places)))?;
        }
        each(Part::Imports(from_imports(imports)))?;
        let state = |(trial, state): (&TrialId, &Resumable)| v1::SnapshotResumable {
            trial: Some(trial.into()),
            attempt: state.attempt.get(),
            step: state.step,
            artifact: state.artifact.clone(),
            bytes: state.bytes,
            hardware: state.hardware.to_string(),
        };
        each(Part::Resumables(v1::SnapshotResumables { states: resumables.iter().map(state).collect() }))?;
        each(Part::Scheduling(v1::SnapshotScheduling {
            estimates_json: canonical::json(estimates),
            drains_json: canonical::json(drains),
        }))
    }
}

/// A state on its way back from its parts.
#[derive(Debug, Default)]
pub struct Restored {
    submissions: u64,
    cells: Vec<Arc<CellEntry>>,
    trials: Vec<(TrialId, TrialEntry)>,
    campaigns: BTreeMap<CampaignName, Campaign>,
    imports: Imports,
    kinds: HashMap<CellId, KindId>,
    estimates: Estimates,
    drains: Drains,
    resumables: BTreeMap<TrialId, Resumable>,
    lists: Lists,
    texts: Texts,
}

impl Restored {
    /// Takes in the next part. Leases count as renewed at `now`.
    ///
    /// # Errors
    /// It is none of a state, or contradicts those before.
    pub fn add(&mut self, part: Part, now: Millis) -> Result<(), WireError> {
        match part {
            Part::Counts(v1::SnapshotCounts { submissions }) => self.submissions = submissions,
            Part::Cells(part) => {
                let unknown = std::iter::repeat(0);
                let texts = &mut self.texts;
                let mut cells =
                    part.cells.into_iter().map(|c| to_cell(c, texts)).collect::<Result<Vec<_>, WireError>>()?;
                cells.extend(planned::to_cells(part.packed.unwrap_or_default(), texts)?);
                for (cell, kind) in cells.into_iter().zip(part.kinds.into_iter().chain(unknown)) {
                    if let Some(kind) = kind.checked_sub(1) {
                        self.kinds.insert(cell.id.clone(), KindId::numbered(kind));
                    }
                    self.cells.push(Arc::new(cell));
                }
            }
            Part::Trials(part) => {
                for trial in part.trials {
                    self.trials.push(to_trial(trial, &self.cells, &mut self.lists, now)?);
                }
            }
            Part::Campaign(campaign) => {
                let (name, campaign) = to_campaign(campaign, &self.trials)?;
                self.campaigns.insert(name, campaign);
            }
            Part::Imports(imports) => self.imports = to_imports(imports)?,
            Part::Resumables(part) => {
                for state in part.states {
                    let trial = wire::trial(state.trial)?;
                    let state = Resumable {
                        attempt: state.attempt.try_into()?,
                        step: state.step,
                        artifact: state.artifact,
                        bytes: state.bytes,
                        hardware: state.hardware.parse()?,
                    };
                    self.resumables.insert(trial, state);
                }
            }
            Part::Scheduling(v1::SnapshotScheduling { estimates_json, drains_json }) => {
                self.estimates = from_json(&estimates_json)?;
                self.drains = from_json(&drains_json)?;
            }
            Part::Head(_) | Part::End(_) => return Err(WireError::Invalid("a head or end among the parts".to_owned())),
        }
        Ok(())
    }

    /// The state of all parts.
    pub fn finish(self) -> State {
        let Self {
            submissions,
            cells,
            trials,
            campaigns,
            imports,
            kinds,
            estimates,
            drains,
            resumables,
            lists: _,
            texts: _,
        } = self;
        let held = trials.iter().filter_map(|(id, entry)| Some((entry.life.holder()?.clone(), id.clone()))).collect();
        let mut queue = Queue::default();
        for (name, campaign) in &campaigns {
            let account = Account { priority: campaign.priority, select: campaign.select.clone() };
            queue.open(name.clone(), account);
        }
        let cells = cells.into_iter().map(|cell| (cell.id.clone(), cell)).collect();
        let mut trials: BTreeMap<TrialId, TrialEntry> = trials.into_iter().collect();
        for (name, campaign) in &campaigns {
            let one = Names::one(name.clone());
            for id in &campaign.trials {
                if let Some(entry) = trials.get_mut(id) {
                    entry.listed_by.add(&one);
                }
            }
        }
        let ids: Vec<TrialId> = trials.keys().cloned().collect();
        let standings = campaigns.keys().map(|name| (name.clone(), Standing::default())).collect();
        let mut state = State {
            campaigns,
            cells,
            trials,
            held,
            queue,
            submissions,
            imports,
            estimates,
            kinds,
            drains,
            resumables,
            standings,
        };
        ids.iter().for_each(|id| state.enter(id));
        state
    }
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, WireError> {
    serde_json::from_str(text).map_err(|e| WireError::Invalid(format!("what the scheduler knows: {e}")))
}

fn from_holder(Holder { agent, slot }: &Holder) -> v1::SnapshotHolder {
    v1::SnapshotHolder { agent: agent.to_string(), slot: slot.to_string() }
}

fn to_holder(v1::SnapshotHolder { agent, slot }: v1::SnapshotHolder) -> Result<Holder, WireError> {
    Ok(Holder { agent: agent.parse()?, slot: slot.parse()? })
}

fn from_past(Past { attempt, holder, cause, reason, at_unix_ms }: &Past) -> v1::SnapshotPast {
    v1::SnapshotPast {
        attempt: attempt.get(),
        holder: Some(from_holder(holder)),
        cause: to_cause(*cause).into(),
        reason: reason.clone(),
        at_unix_ms: *at_unix_ms,
    }
}

fn to_past(past: v1::SnapshotPast) -> Result<Past, WireError> {
    Ok(Past {
        attempt: past.attempt.try_into()?,
        cause: from_cause(past.cause())?,
        holder: to_holder(past.holder.ok_or(WireError::Missing("an attempt's holder"))?)?,
        reason: past.reason,
        at_unix_ms: past.at_unix_ms,
    })
}

fn from_trial(id: &TrialId, entry: &TrialEntry, place: Option<u32>) -> v1::SnapshotTrial {
    let TrialId { cell, hardware, repeat } = id;
    // Who lists it follows from the campaigns.
    let TrialEntry { life, rank, class, note, superseded, wasted, failed_on, past, granted, wanted_by, listed_by: _ } =
        entry;
    let Trial { state, attempt, losses, resumable } = life;
    // When a lease was last renewed is the old process's time: a restart gives every lease fresh time.
    let (state, holder) = match state {
        TrialState::Waiting => (Stands::Waiting, None),
        TrialState::Leased { holder, renewed: _ } => (Stands::Leased, Some(from_holder(holder))),
        TrialState::Finished => (Stands::Finished, None),
        TrialState::Cancelled => (Stands::Cancelled, None),
    };
    let (rank_campaign, rank_repeat, rank_shuffled) = rank.parts();
    v1::SnapshotTrial {
        cell: place.unwrap_or(0),
        other_cell: if place.is_none() { cell.to_string() } else { String::new() },
        repeat: *repeat,
        hardware: hardware.as_ref().map(ToString::to_string),
        state: state.into(),
        holder,
        attempt: attempt.map_or(0, Attempt::get),
        losses: *losses,
        resumable: *resumable,
        rank_campaign,
        rank_repeat,
        rank_shuffled,
        outcome_class: class.map(|c| c.name().to_owned()).unwrap_or_default(),
        note: note.clone(),
        superseded: *superseded,
        wasted: wasted
            .iter()
            .map(|(attempt, waste)| v1::SnapshotWaste { attempt: attempt.get(), waste_json: waste.clone() })
            .collect(),
        failed_on: failed_on.iter().map(from_holder).collect(),
        past: past.iter().map(from_past).collect(),
        granted: granted.iter().map(|(n, agent)| (n.get(), agent.to_string())).collect(),
        wanted_by: wanted_by.iter().map(ToString::to_string).collect(),
    }
}

/// The latest list of names that was read: those of neighbours are mostly the same, and then kept once.
#[derive(Debug, Default)]
struct Lists {
    text: Vec<String>,
    names: Names,
}

impl Lists {
    fn list(&mut self, text: Vec<String>) -> Result<Names, WireError> {
        if text != self.text {
            let names = text.iter().map(|name| Ok(name.parse()?)).collect::<Result<_, WireError>>()?;
            (self.text, self.names) = (text, Names::of(names));
        }
        Ok(self.names.clone())
    }
}

fn to_trial(
    trial: v1::SnapshotTrial,
    cells: &[Arc<CellEntry>],
    lists: &mut Lists,
    now: Millis,
) -> Result<(TrialId, TrialEntry), WireError> {
    let stands = trial.state();
    let cell = match (trial.cell as usize).checked_sub(1) {
        Some(place) => cells.get(place).ok_or(WireError::Missing("a trial's cell"))?.id.clone(),
        None => trial.other_cell.parse()?,
    };
    let hardware = trial.hardware.map(|h| h.parse()).transpose()?;
    let state = match stands {
        Stands::Waiting => TrialState::Waiting,
        Stands::Leased => {
            let holder = to_holder(trial.holder.ok_or(WireError::Missing("a lease's holder"))?)?;
            TrialState::Leased { holder, renewed: now }
        }
        Stands::Finished => TrialState::Finished,
        Stands::Cancelled => TrialState::Cancelled,
        Stands::Unspecified => return Err(WireError::Missing("where a trial stands")),
    };
    let attempt = match trial.attempt {
        0 => None,
        n => Some(n.try_into()?),
    };
    let class = match trial.outcome_class.as_str() {
        "" => None,
        name => Some(
            OutcomeClass::from_name(name)
                .ok_or_else(|| WireError::Invalid(format!("an unknown outcome \"{name}\"")))?,
        ),
    };
    let entry = TrialEntry {
        life: Trial { state, attempt, losses: trial.losses, resumable: trial.resumable },
        rank: Rank::from_parts(trial.rank_campaign, trial.rank_repeat, trial.rank_shuffled),
        class,
        note: trial.note,
        superseded: trial.superseded,
        wasted: trial
            .wasted
            .into_iter()
            .map(|w| Ok((w.attempt.try_into()?, w.waste_json)))
            .collect::<Result<_, WireError>>()?,
        failed_on: trial.failed_on.into_iter().map(to_holder).collect::<Result<_, WireError>>()?,
        granted: {
            let granted = trial.granted.into_iter().map(|(n, agent)| Ok((n.try_into()?, agent.parse()?)));
            let mut granted = granted.collect::<Result<Vec<(Attempt, AgentId)>, WireError>>()?;
            granted.sort_by_key(|(attempt, _)| *attempt);
            granted
        },
        past: trial.past.into_iter().map(to_past).collect::<Result<_, WireError>>()?,
        wanted_by: lists.list(trial.wanted_by)?,
        listed_by: Names::default(),
    };
    Ok((TrialId { cell, hardware, repeat: trial.repeat }, entry))
}

fn from_campaign(name: &CampaignName, campaign: &Campaign, places: &HashMap<&TrialId, u32>) -> v1::SnapshotCampaign {
    let Campaign { toml, trials, excluded_json, warnings, keep, submitted_unix_ms, cancelled, priority, select } =
        campaign;
    let Output { weights, adapter } = keep;
    v1::SnapshotCampaign {
        name: name.to_string(),
        toml: toml.clone(),
        // Submitting a campaign makes all its trials known, and none is ever forgotten.
        trials: trials.iter().filter_map(|trial| places.get(trial).copied()).collect(),
        excluded_json: excluded_json.clone(),
        warnings: warnings.clone(),
        keep_weights: *weights,
        keep_adapter: *adapter,
        submitted_unix_ms: *submitted_unix_ms,
        cancelled: *cancelled,
        priority: priority.get().into(),
        select_json: canonical::json(select.as_ref()),
    }
}

fn to_campaign(
    campaign: v1::SnapshotCampaign,
    trials: &[(TrialId, TrialEntry)],
) -> Result<(CampaignName, Campaign), WireError> {
    let trial = |place: u32| trials.get(place as usize).map(|(id, _)| id.clone());
    let trials = campaign.trials.into_iter().map(trial).collect::<Option<_>>();
    let entry = Campaign {
        toml: campaign.toml,
        trials: trials.ok_or(WireError::Missing("a campaign's trial"))?,
        excluded_json: campaign.excluded_json,
        warnings: campaign.warnings,
        keep: Output { weights: campaign.keep_weights, adapter: campaign.keep_adapter },
        submitted_unix_ms: campaign.submitted_unix_ms,
        cancelled: campaign.cancelled,
        priority: i64::from(campaign.priority).try_into().map_err(WireError::Invalid)?,
        select: Arc::new(match campaign.select_json.as_str() {
            "" => Select::default(),
            json => from_json(json)?,
        }),
    };
    Ok((campaign.name.parse()?, entry))
}

fn from_imports(Imports { sets, parts }: &Imports) -> v1::SnapshotImports {
    let set = |(name, set): (&CampaignName, &ImportedSet)| {
        let ImportedSet { content, records, file_name, imported_unix_ms } = set.clone();
        v1::SnapshotImportedSet { name: name.to_string(), content, records, file_name, imported_unix_ms }
    };
    let numbers = |(content, parts): (&String, &BTreeMap<u64, u64>)| v1::SnapshotImportedParts {
        content: content.clone(),
        first_and_records: parts.iter().flat_map(|(first, records)| [*first, *records]).collect(),
    };
    v1::SnapshotImports { sets: sets.iter().map(set).collect(), parts: parts.iter().map(numbers).collect() }
}

fn to_imports(imports: v1::SnapshotImports) -> Result<Imports, WireError> {
    let set = |set: v1::SnapshotImportedSet| {
        let v1::SnapshotImportedSet { name, content, records, file_name, imported_unix_ms } = set;
        Ok((name.parse()?, ImportedSet { content, records, file_name, imported_unix_ms }))
    };
    let numbers = |part: v1::SnapshotImportedParts| {
        let pairs = part.first_and_records.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        (part.content, pairs)
    };
    Ok(Imports {
        sets: imports.sets.into_iter().map(set).collect::<Result<_, WireError>>()?,
        parts: imports.parts.into_iter().map(numbers).collect(),
    })
}
