//! Why a trial is not running: every reason, for every slot.

use fleet_common::id::{CellId, TrialId};
use fleet_common::lease::{Release, TrialState};
use serde::{Deserialize, Serialize};

use super::{Core, Refusal, TrialEntry};
use crate::scheduler::{self, Busy, Place};

/// Most trials that are explained at once; a cell has one per repeat and class.
const MOST: usize = 64;

/// All that is to be said of one trial: `fleet.explain/1` is a list of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Its id.
    pub trial: String,
    /// What it is, in words.
    pub label: String,
    /// waiting, running, finished, cancelled.
    pub state: String,
    /// The class of its outcome, once it has one.
    pub outcome: Option<String>,
    /// Campaigns that ask for it.
    pub campaigns: Vec<String>,
    /// Where it stands in line, while it waits.
    pub line: Option<Line>,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// What is expected of it.
    pub expected: Expected,
    /// What each connected slot is to it, while it waits.
    pub slots: Vec<SlotReason>,
    /// The latest attempt's number, and where it is while it runs.
    pub attempt: Option<u32>,
    /// Who runs it, as SLOT on AGENT.
    pub runs_on: Option<String>,
    /// Attempts that ended without a record, the latest of them.
    pub attempts: Vec<PastAttempt>,
}

/// A place in line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// In whose.
    pub campaign: String,
    /// Its priority.
    pub priority: i8,
    /// Trials of it that wait.
    pub waiting: u64,
    /// Of them, those that stand in front of it. In the tail of a campaign long trials go first, wherever they stand.
    pub ahead: u64,
}

/// What is expected of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The most that its tensors will hold; null where nothing is known.
    pub peak_bytes: Option<u64>,
    /// What that is based on.
    pub peak_basis: String,
    /// The most that they may hold; null is unlimited.
    pub budget_bytes: Option<u64>,
    /// Per class of the slots that it fits.
    pub durations: Vec<ExpectedDuration>,
}

/// How long it will take on a class of hardware.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectedDuration {
    /// The class.
    pub hardware: String,
    /// The middle, seconds; null where nothing is known.
    pub seconds: Option<f64>,
    /// Nine of ten take no longer.
    pub seconds_90: Option<f64>,
    /// What that is based on.
    pub basis: String,
}

/// What a slot is to a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotReason {
    /// Whose.
    pub agent: String,
    /// Which.
    pub slot: String,
    /// Its class.
    pub hardware: String,
    /// It may run there, now or later.
    pub fits: bool,
    /// Why it does not run there.
    pub reason: String,
}

/// An attempt that ended without a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastAttempt {
    /// Its number.
    pub attempt: u32,
    /// Who had it.
    pub agent: String,
    /// In which slot.
    pub slot: String,
    /// silent, restarted, crashed, unfit, returned.
    pub ended: String,
    /// Why, in words.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// A standard normal variable is below this in nine of ten cases.
const NINE_OF_TEN: f64 = 1.2816;

impl Core {
    /// Explains a trial, or all trials of the cell whose id begins so.
    pub(super) fn explain(&self, what: &str) -> Result<Vec<Explanation>, Refusal> {
        let busy = self.busy();
        if let Ok(id) = what.parse::<TrialId>() {
            let entry = self.state.trial(&id).ok_or_else(|| Refusal::NotNow(format!("no trial is called \"{id}\"")))?;
            return Ok(vec![self.explain_trial(&busy, &id, entry)]);
        }
        let cell = what.to_lowercase();
        if cell.is_empty() || cell.len() > 32 || !cell.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Refusal::NotNow(format!(
                "expected the beginning of a cell id, such as 3fa91c02, or a trial id CELL/REPEAT, found \"{}\"; \
                 `fleet plan FILE --json` and `fleet export` show ids",
                what.chars().take(80).collect::<String>()
            )));
        }
        let mut cells: Vec<&CellId> = self.state.trials_of(&cell).map(|(id, _)| &id.cell).collect();
        cells.dedup();
        match cells.as_slice() {
            [] => Err(Refusal::NotNow(format!("no cell's id begins with \"{cell}\""))),
            [_] => Ok(self
                .state
                .trials_of(&cell)
                .take(MOST)
                .map(|(id, entry)| self.explain_trial(&busy, id, entry))
                .collect()),
            several => {
                let few: Vec<&str> = several.iter().take(4).map(|c| c.short()).collect();
                let n = several.len();
                Err(Refusal::NotNow(format!(
                    "{n} cells' ids begin with \"{cell}\": {} …; say more of it",
                    few.join(", ")
                )))
            }
        }
    }

    fn explain_trial(&self, busy: &Busy, id: &TrialId, entry: &TrialEntry) -> Explanation {
        let waits = entry.life.state == TrialState::Waiting;
        let place = self.state.place(id);
        let waiting = place.as_ref().filter(|_| waits);
        Explanation {
            trial: id.to_string(),
            label: self.label(id),
            state: match &entry.life.state {
                TrialState::Waiting => "waiting",
                TrialState::Leased { .. } => "running",
                TrialState::Finished => "finished",
                TrialState::Cancelled => "cancelled",
            }
            .to_owned(),
            outcome: entry.class.map(|c| c.name().to_owned()),
            campaigns: entry.wanted_by.iter().map(ToString::to_string).collect(),
            line: waiting.map(|place| self.line(place, id)),
            waits_for: waiting.map(|p| scheduler::reason(self.view(), busy, &p.account, &p.group)),
            expected: self.expected(id, place.as_ref()),
            slots: waiting.map(|place| self.slot_reasons(busy, place)).unwrap_or_default(),
            attempt: entry.life.attempt.map(|a| a.get()),
            runs_on: entry.life.holder().map(|h| format!("{} on {}", h.slot, h.agent)),
            attempts: entry
                .past
                .iter()
                .map(|p| PastAttempt {
                    attempt: p.attempt.get(),
                    agent: p.holder.agent.to_string(),
                    slot: p.holder.slot.to_string(),
                    ended: in_a_word(p.cause).to_owned(),
                    reason: p.reason.clone(),
                    at_unix_ms: p.at_unix_ms,
                })
                .collect(),
        }
    }

    fn line(&self, place: &Place, id: &TrialId) -> Line {
        let queue = self.state.queue();
        let groups = || queue.line(&place.account).into_iter().flat_map(|line| line.values());
        let here = (place.rank, id.clone());
        Line {
            campaign: place.account.to_string(),
            priority: queue.account(&place.account).priority.get(),
            waiting: groups().map(|g| g.len() as u64).sum(),
            ahead: groups().map(|g| g.range(..&here).count() as u64).sum(),
        }
    }

    fn expected(&self, id: &TrialId, place: Option<&Place>) -> Expected {
        let (estimates, kind) = (self.state.estimates(), self.state.kind(id));
        let peak = estimates.peak(kind);
        let fits = |server: &&scheduler::Server| {
            place.is_some_and(|p| {
                let account = self.state.queue().account(&p.account);
                self.fleet.obstacle(estimates, account, &p.group, server).is_none()
            })
        };
        let mut classes: Vec<_> = self.fleet.servers().values().filter(fits).map(|s| &s.class).collect();
        classes.sort();
        classes.dedup();
        let durations = classes.into_iter().map(|class| {
            let duration = estimates.duration(kind, class);
            let known = |seconds: f64| duration.is_known().then_some(seconds);
            ExpectedDuration {
                hardware: class.to_string(),
                seconds: known(duration.seconds),
                seconds_90: known(duration.quantile(NINE_OF_TEN)),
                basis: duration.basis.to_string(),
            }
        });
        Expected {
            peak_bytes: Some(peak.bytes).filter(|b| *b > 0),
            peak_basis: peak.basis.to_string(),
            budget_bytes: estimates.kind(kind).budget_bytes,
            durations: durations.collect(),
        }
    }

    fn slot_reasons(&self, busy: &Busy, place: &Place) -> Vec<SlotReason> {
        let view = self.view();
        let account = view.queue.account(&place.account);
        let servers = self.fleet.servers().iter();
        let reasons = servers.filter_map(|(holder, server)| {
            let verdict = scheduler::verdict(view, busy, account, &place.group, holder)?;
            Some(SlotReason {
                agent: holder.agent.to_string(),
                slot: holder.slot.to_string(),
                hardware: server.class.to_string(),
                fits: verdict.fits(),
                reason: scheduler::describe(view, &place.group, holder, &verdict),
            })
        });
        reasons.collect()
    }
}

const fn in_a_word(cause: Release) -> &'static str {
    match cause {
        Release::Silent => "silent",
        Release::Restarted => "restarted",
        Release::Crashed => "crashed",
        Release::Unfit => "unfit",
        Release::Returned => "returned",
    }
}
