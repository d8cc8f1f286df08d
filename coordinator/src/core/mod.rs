//! The coordinator's decisions: inputs in, events and replies out, one owner of the state.
//!
//! Nothing here waits, reads a clock or touches a disk. The driver feeds inputs one at a time, makes the events
//! durable, and only then sends the replies: what an agent or a person has been told is never forgotten.

mod affinity;
mod campaigns;
mod content;
mod drains;
mod event;
mod explain;
mod imports;
mod leases;
mod resumable;
mod serve;
mod slots;
mod state;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fleet_common::id::{AgentId, Attempt, CampaignName, HardwareClass, SlotId, TrialId};
use fleet_common::lease::{Holder, LeaseTerms, Millis};
use fleet_common::record::OutcomeClass;
use fleet_common::record_set::RecordSet;
use fleet_common::spec::Output;
use fleet_common::telemetry::Seal;
use fleet_content::Item;

use crate::scheduler::{Eta, Figures, Fleet, Shares};

pub use campaigns::Prepared;
pub use content::wanted;
pub use drains::{Drain, Drains};
pub use event::{CellEntry, Event, Scheduling, Submission};
pub use explain::{Expected, ExpectedDuration, Explanation, Line, PastAttempt, SlotReason};
pub use imports::{ImportedSet, Imports, Source};
pub use resumable::{Resumable, Saved};
pub use slots::{Drained, SlotAbout};
pub use state::{ApplyError, Campaign, Past, Restored, Standing, State, TrialEntry};
pub use status::{AgentView, Attempts, CampaignView, Description, Running, SlotState, Snapshot};

/// Names one question, so that its answer finds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The clocks, read by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic; for leases.
    pub mono: Millis,
    /// Wall clock, milliseconds since 1970; for people.
    pub unix_ms: u64,
}

/// A slot as its agent describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Which.
    pub slot: SlotId,
    /// Its class.
    pub hardware: HardwareClass,
    /// Its memory, bytes.
    pub memory_bytes: u64,
    /// What else it says.
    pub about: SlotAbout,
}

/// A lease as an agent claims to hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The trial.
    pub trial: TrialId,
    /// Under which attempt.
    pub attempt: Attempt,
    /// In which slot.
    pub slot: SlotId,
}

/// How far a running trial is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Phase at work.
    pub phase: String,
    /// Steps or images done.
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// Latest training loss.
    pub loss: Option<f64>,
}

/// What may happen to the coordinator.
#[derive(Debug)]
pub enum Input {
    /// A person submits a campaign.
    Submit(Token, Box<Prepared>),
    /// A person opens ended trials again.
    Retry {
        /// Whom to answer.
        token: Token,
        /// Which campaign.
        campaign: CampaignName,
        /// Trials whose outcome says nothing about the cell.
        failed: bool,
        /// Trials that were called off.
        missing: bool,
    },
    /// A person calls a campaign off.
    Cancel(Token, CampaignName),
    /// A person brings records that were made elsewhere.
    Import {
        /// Whom to answer.
        token: Token,
        /// The name that they get.
        name: CampaignName,
        /// The file that they come from.
        file_name: String,
        /// The records, checked by whoever received them.
        set: RecordSet,
    },
    /// A person asks for the records of a campaign or an imported set.
    Locate(Token, CampaignName),
    /// A person asks which attempts a campaign's trials had.
    Attempts(Token, CampaignName),
    /// A person asks what a campaign asks for.
    Describe(Token, CampaignName),
    /// A person asks where things stand.
    Status(Token, Option<CampaignName>),
    /// An agent introduces itself.
    Register {
        /// Whom to answer.
        token: Token,
        /// Who.
        agent: AgentId,
        /// Its version.
        version: String,
        /// Its host.
        host: String,
        /// Its slots.
        slots: Vec<SlotInfo>,
        /// What it is running.
        held: Vec<Claim>,
        /// The data sets and weights that it has.
        content: BTreeSet<Item>,
        /// Rises with every introduction of the agent; 0 where it does not count.
        number: u64,
    },
    /// A free slot asks for work.
    Pull {
        /// Whom to answer.
        token: Token,
        /// Which slot.
        holder: Holder,
        /// How long the question may wait, milliseconds.
        wait_ms: u64,
    },
    /// Nobody waits for this answer any more.
    Gone(Token),
    /// An agent renews its leases.
    Heartbeat {
        /// Whom to answer.
        token: Token,
        /// Who.
        agent: AgentId,
        /// What it is running, and how far it is.
        running: Vec<(Claim, Progress)>,
        /// The data sets and weights that it has, where that has changed.
        content: Option<(u64, BTreeSet<Item>)>,
    },
    /// An agent delivers a record.
    Report {
        /// Whom to answer.
        token: Token,
        /// Who.
        holder: Holder,
        /// The trial.
        trial: TrialId,
        /// The attempt.
        attempt: Attempt,
        /// Class of the outcome.
        class: OutcomeClass,
        /// The outcome's reason in words.
        reason: String,
        /// The document.
        record: Vec<u8>,
        /// Its samples, as stored.
        seal: Seal,
        /// What the scheduler learns from it.
        figures: Figures,
    },
    /// An agent gives a lease back.
    Release {
        /// Whom to answer.
        token: Token,
        /// Who.
        holder: Holder,
        /// The trial.
        trial: TrialId,
        /// The attempt.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// An agent tells of energy that is in no record.
    Wasted {
        /// Whom to answer.
        token: Token,
        /// Who, where that is known.
        agent: Option<AgentId>,
        /// Of an attempt each, with its document.
        wastes: Vec<(TrialId, Attempt, Vec<u8>)>,
    },
    /// An agent has put a state to go on from into the artifact store.
    Saved {
        /// Whom to answer.
        token: Token,
        /// Who.
        holder: Holder,
        /// The trial.
        trial: TrialId,
        /// The state.
        state: Resumable,
    },
    /// Which states are wanted?
    Resumables(Token),
    /// May an agent read this state?
    MayRead {
        /// Whom to answer.
        token: Token,
        /// Who asks.
        agent: AgentId,
        /// The state's name in the store.
        artifact: String,
    },
    /// An agent has something on an attempt.
    Knows {
        /// Whom to answer.
        token: Token,
        /// Who, where that is known.
        agent: Option<AgentId>,
        /// The trial.
        trial: TrialId,
        /// The attempt.
        attempt: Attempt,
    },
    /// A person asks why trials are not running: a trial's id, or the beginning of a cell's.
    Explain(Token, String),
    /// A person wants nothing new to run on an agent's slots.
    Drain {
        /// Whom to answer.
        token: Token,
        /// Whose.
        agent: AgentId,
        /// Which; `None`: all.
        slot: Option<SlotId>,
        /// Why.
        reason: String,
        /// What runs there is given back.
        now: bool,
    },
    /// A person wants an end of that.
    Undrain {
        /// Whom to answer.
        token: Token,
        /// Whose.
        agent: AgentId,
        /// Which; `None`: all.
        slot: Option<SlotId>,
    },
    /// Time has passed.
    Tick,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// It is the trial's record, or its crash was noted and the trial waits again.
    Recorded,
    /// It was stored before.
    AlreadyRecorded,
    /// Stored outside the statistics.
    Superseded,
    /// No such trial, or the failure of an attempt that is over.
    NotWanted,
}

/// What the coordinator thinks of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The claim.
    pub claim: Claim,
    /// Go on, or stop for this reason.
    pub keep: Result<(), String>,
}

/// What an agent hears that claims another's attempt.
pub const ANOTHERS: &str = "this attempt was granted to another agent";

/// A lease that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The trial.
    pub trial: TrialId,
    /// The attempt.
    pub attempt: Attempt,
    /// Its cell.
    pub cell: std::sync::Arc<CellEntry>,
    /// What to keep of it.
    pub keep: Output,
    /// The state to go on from; or why there is none to go on from there, where there is one.
    pub resume: Option<Result<Resumable, String>>,
}

/// Why a person's request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such campaign.
    #[error("no campaign is called \"{name}\"{hint}")]
    UnknownCampaign {
        /// The name.
        name: CampaignName,
        /// The nearest one, or all there are.
        hint: String,
    },
    /// It is not a campaign.
    #[error(
        "\"{name}\" is a set of imported records, which is read-only: use `fleet compare` or `fleet export`; \
         watch, report, samples, retry and cancel are for campaigns"
    )]
    Imported {
        /// The name.
        name: CampaignName,
    },
    /// It cannot be done as things stand.
    #[error("{0}")]
    NotNow(String),
}

/// Answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To a submission: trials in all, and new ones.
    Submitted(Result<(u64, u64), Refusal>),
    /// To retry and cancel: how many trials.
    Changed(Result<u64, Refusal>),
    /// To an import: records of the set, and whether it is new.
    Imported(Result<(u64, bool), Refusal>),
    /// To a question for records.
    Located(Result<Source, Refusal>),
    /// To a question for attempts.
    Attempts(Result<Vec<Attempts>, Refusal>),
    /// To a question for a campaign.
    Described(Result<Box<Description>, Refusal>),
    /// To a question for the status.
    Status(Result<Box<Snapshot>, Refusal>),
    /// To an introduction.
    Registered(Vec<Verdict>),
    /// To a pull.
    Leased(Option<Offer>),
    /// To a heartbeat; `None`: register again.
    Heartbeat(Option<Vec<Verdict>>),
    /// To a report.
    Reported(Reported),
    /// To a release.
    Released,
    /// To wasted energy.
    Noted,
    /// To a state in the artifact store.
    Saved(Saved),
    /// Names of the artifacts of all states that are wanted.
    Resumables(Vec<String>),
    /// Whether an agent may read a state.
    MayRead(bool),
    /// Whether this attempt was ever granted.
    Knows(bool),
    /// To a question why.
    Explained(Result<Vec<Explanation>, Refusal>),
    /// To drain and undrain.
    Drained(Result<Drained, Refusal>),
    /// To an agent that has something on an attempt that was granted to another.
    NotItsOwn,
}

/// What follows from an input: facts to make durable, then answers to send.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// In order.
    pub events: Vec<Event>,
    /// In any order, after the events are durable.
    pub replies: Vec<(Token, Reply)>,
}

/// What is known of an agent. Not durable: agents introduce themselves again.
#[derive(Debug, Clone, PartialEq)]
struct Agent {
    version: String,
    host: String,
    slots: Vec<SlotInfo>,
    heard: Millis,
    /// Of its latest introduction.
    number: u64,
}

/// The coordinator's mind.
pub struct Core {
    state: State,
    terms: LeaseTerms,
    agents: BTreeMap<AgentId, Agent>,
    questions: serve::Questions,
    /// The slots as the scheduler sees them.
    fleet: Fleet,
    shares: Shares,
    /// There will be no other agents than those that are here.
    closed: bool,
    /// What agents have. Not durable, like them.
    contents: content::Contents,
    progress: HashMap<TrialId, (Progress, Millis)>,
    /// When campaigns will be over, and when that was worked out.
    ahead: (Option<Millis>, BTreeMap<CampaignName, Result<Eta, String>>),
    /// When a trial's state was last noted, for a moment.
    saved: HashMap<TrialId, Millis>,
    /// The latest tick.
    ticked: Option<Millis>,
    now: Now,
    step: Step,
}

impl Core {
    /// A coordinator that knows what `state` says.
    pub fn new(state: State, terms: LeaseTerms) -> Self {
        Self {
            state,
            terms,
            agents: BTreeMap::new(),
            questions: serve::Questions::default(),
            fleet: Fleet::default(),
            shares: Shares::default(),
            closed: false,
            contents: content::Contents::default(),
            progress: HashMap::new(),
            ahead: (None, BTreeMap::new()),
            saved: HashMap::new(),
            ticked: None,
            now: Now { mono: Millis(0), unix_ms: 0 },
            step: Step::default(),
        }
    }

    /// The same for a fleet that will have no other agents: what fits none of their slots is tried on the roomiest one
    /// instead of waiting for a larger one that never comes.
    pub fn closed(mut self) -> Self {
        self.closed = true;
        self.fleet.closed = true;
        self
    }

    /// Starts over from what is durable, after a commit failed; agents, questions and progress are kept.
    pub fn replace_state(&mut self, state: State) {
        self.state = state;
        self.refresh_fleet();
    }

    /// What is known.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How long leases last.
    pub fn terms(&self) -> LeaseTerms {
        self.terms
    }

    /// Takes in what happened and says what follows. The events are already part of the state.
    pub fn handle(&mut self, input: Input, now: Now) -> Step {
        self.now = now;
        match input {
            Input::Submit(token, prepared) => self.submit(token, *prepared),
            Input::Retry { token, campaign, failed, missing } => self.retry(token, &campaign, failed, missing),
            Input::Cancel(token, campaign) => self.cancel(token, campaign),
            Input::Import { token, name, file_name, set } => self.import(token, name, file_name, set),
            Input::Locate(token, name) => {
                let source = self.locate(&name);
                self.reply(token, Reply::Located(source));
            }
            Input::Attempts(token, campaign) => {
                let attempts = self.attempts(&campaign);
                self.reply(token, Reply::Attempts(attempts));
            }
            Input::Describe(token, campaign) => {
                let description = self.describe(&campaign);
                self.reply(token, Reply::Described(description.map(Box::new)));
            }
            Input::Status(token, campaign) => {
                self.look_ahead();
                let snapshot = self.snapshot(campaign.as_ref());
                self.reply(token, Reply::Status(snapshot.map(Box::new)));
            }
            Input::Register { token, agent, version, host, slots, held, number, content } => {
                let later = self.agents.get(&agent).is_some_and(|known| number != 0 && number < known.number);
                if later {
                    // It was overtaken: what it does not claim was granted since, and nobody waits for the answer.
                    self.reply(token, Reply::Registered(Vec::new()));
                } else {
                    let known = Agent { version, host, slots, heard: now.mono, number };
                    self.register(token, agent.clone(), known, held);
                    self.has(&agent, number, content);
                }
            }
            Input::Pull { token, holder, wait_ms } => self.pull(token, holder, wait_ms),
            Input::Gone(token) => self.questions.forget(token),
            Input::Heartbeat { token, agent, running, content } => {
                if let Some((number, content)) = content {
                    self.has(&agent, number, content);
                }
                self.heartbeat(token, &agent, running);
            }
            Input::Wasted { token, agent: Some(agent), wastes }
                if wastes.iter().any(|(trial, attempt, _)| self.is_anothers(&agent, trial, *attempt)) =>
            {
                self.reply(token, Reply::NotItsOwn);
            }
            Input::Knows { token, agent: Some(agent), trial, attempt } if self.is_anothers(&agent, &trial, attempt) => {
                self.reply(token, Reply::NotItsOwn);
            }
            Input::Report { token, holder, trial, attempt, class, reason, record, seal, figures } => {
                let reported = self.report(&holder, trial, attempt, class, reason, record, seal, figures);
                self.reply(token, Reply::Reported(reported));
            }
            Input::Release { token, holder, trial, attempt, reason } => {
                self.release(&holder, &trial, attempt, reason);
                self.reply(token, Reply::Released);
            }
            Input::Wasted { token, wastes, .. } => {
                for (trial, attempt, waste) in wastes {
                    let told = self.state.trial(&trial).is_none_or(|t| t.wasted.contains_key(&attempt));
                    if !told && self.was_granted(&trial, attempt) {
                        self.record(Event::EnergyWasted { trial, attempt, waste });
                    }
                }
                self.reply(token, Reply::Noted);
            }
            Input::Saved { token, holder, trial, state } => {
                let saved = self.saved(&holder, trial, state);
                self.reply(token, Reply::Saved(saved));
            }
            Input::Resumables(token) => {
                let names = self.state.resumables().map(|(_, state)| state.artifact.clone()).collect();
                self.reply(token, Reply::Resumables(names));
            }
            Input::MayRead { token, agent, artifact } => {
                let may = self.may_read(&agent, &artifact);
                self.reply(token, Reply::MayRead(may));
            }
            Input::Knows { token, trial, attempt, .. } => {
                let granted = self.was_granted(&trial, attempt);
                self.reply(token, Reply::Knows(granted));
            }
            Input::Explain(token, what) => {
                let explained = self.explain(&what);
                self.reply(token, Reply::Explained(explained));
            }
            Input::Drain { token, agent, slot, reason, now } => self.drain(token, agent, slot, reason, now),
            Input::Undrain { token, agent, slot } => self.undrain(token, agent, slot),
            Input::Tick => self.tick(),
        }
        self.serve();
        std::mem::take(&mut self.step)
    }

    /// Makes an event part of the state and of this step.
    fn record(&mut self, event: Event) {
        let applied = self.state.apply(&event, self.now.mono, self.now.unix_ms);
        // The core checks before it decides, so this is a slip of the core itself; a fact that does not fit must not
        // reach the journal.
        assert!(applied.is_ok() || !cfg!(test), "{applied:?}");
        if applied.is_ok() {
            self.questions.wake_by(&event);
            self.step.events.push(event);
        }
    }

    /// Whether an attempt was granted to another agent than this one.
    fn is_anothers(&self, agent: &AgentId, trial: &TrialId, attempt: Attempt) -> bool {
        self.state.granted_to(trial, attempt).is_some_and(|granted| granted != agent)
    }

    fn was_granted(&self, trial: &TrialId, attempt: Attempt) -> bool {
        let latest = self.state.trial(trial).and_then(|t| t.life.attempt);
        latest.is_some_and(|latest| attempt <= latest)
    }

    fn reply(&mut self, token: Token, reply: Reply) {
        self.step.replies.push((token, reply));
    }

    /// A campaign, or why there is none of this name.
    fn campaign(&self, name: &CampaignName) -> Result<&Campaign, Refusal> {
        self.state.campaigns().get(name).ok_or_else(|| match self.state.imports().sets().contains_key(name) {
            true => Refusal::Imported { name: name.clone() },
            false => self.unknown_campaign(name),
        })
    }

    fn unknown_campaign(&self, name: &CampaignName) -> Refusal {
        let sets = self.state.imports().sets().keys();
        let names: Vec<&str> = self.state.campaigns().keys().chain(sets).map(CampaignName::as_str).collect();
        let hint = match (fleet_common::spec::nearest(name.as_str(), names.iter().copied()), names.is_empty()) {
            (Some(nearest), _) => format!("; did you mean \"{nearest}\"?"),
            (None, true) => "; none has been submitted yet".to_owned(),
            (None, false) => format!("; there are {}", names.join(", ")),
        };
        Refusal::UnknownCampaign { name: name.clone(), hint }
    }
}

#[cfg(test)]
mod tests;
