//! The agent's half of the contract with the coordinator: inputs in, effects out, no clock, no disk, no network.
//!
//! The daemon feeds it what happened and does what it says; the simulation does the same on virtual time.
//!
//! ```text
//!  link:   Introducing ─answered──► Known ─────┐ every second: Renew, with all that is held
//!            ▲  ▲ │ no answer         │ ▲──────┘
//!            │  └─┘ later again       │ "register again"
//!            └────────────────────────┘
//!
//!  a slot, once the agent is known:
//!
//!   late records? ──► Delivering        ┌──────────────── nothing ───────────────┐
//!        │ none          │ settled      ▼                                        │
//!        ▼               ▼           Asking ──granted──► Working ──record──► Keeping ──► Delivering
//!    Preparing ──────► Pausing ─────►   │                   │                              │   ▲ │ no answer
//!                        ▲ ▲ no answer  │                   │ stopped, not begun           │   └─┘ later again
//!                        │ └────────────┘                   ▼                              │
//!                        ├───────────────────────────── GivingBack                         │
//!                        └──────────────────────────── settled ────────────────────────────┘
//! ```
//!
//! - A record is durable in the outbox (`Keep`) before the coordinator hears of it (`Report`), and leaves the outbox
//!   (`Settle`) only after the coordinator's answer.
//! - Every introduction and renewal claims all that is held, from the grant to the settlement: what is not claimed in an
//!   introduction is taken back.
//! - A slot holds one thing at a time. It asks for work only when it holds nothing, and only while the agent is known: a
//!   lease that were granted while an introduction is under way would be missing there, and be taken back.
//! - Introductions are numbered: one that is overtaken on its way by a later one says nothing any more.
//! - What is here of data sets and weights is told in introductions, and in renewals for as long as it is news; numbered,
//!   too.
//! - When the daemon is asked to end, workers are stopped and their leases given back; a record that cannot be delivered
//!   within [`FAREWELL`] stays in the outbox for the next daemon.

pub mod backoff;
mod link;
mod news;
mod slot;

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_common::id::{Attempt, SlotId, TrialId};
use fleet_content::Item;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use link::Link;
use news::News;
pub use news::{Here, Told};
use slot::Slot;

/// When the daemon is to end, a delivery that is under way may take so long.
pub const FAREWELL: Duration = Duration::from_secs(2);
/// Why a worker is stopped when the daemon is to end.
pub const SHUTTING_DOWN: &str = "the agent is shutting down";

/// A lease, or a record of one, as this side holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// The trial.
    pub trial: TrialId,
    /// Under which attempt.
    pub attempt: Attempt,
    /// In which slot.
    pub slot: SlotId,
}

/// What the coordinator says of a claim that it does not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwanted {
    /// The trial.
    pub trial: TrialId,
    /// The attempt.
    pub attempt: Attempt,
    /// Why.
    pub reason: String,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed, but for these.
    Heard(Vec<Unwanted>),
    /// The coordinator does not know this agent.
    RegisterAgain,
    /// None came.
    Failed,
}

/// The answer to a question for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    /// A lease.
    Granted(TrialId, Attempt),
    /// Nothing to do now.
    Nothing,
    /// A lease that cannot be read; it was given back.
    Unreadable,
    /// No answer came.
    Failed,
}

/// How an attempt ended here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With a record; `fit` is false where it says that this slot may not be fit for work.
    Record {
        /// See above.
        fit: bool,
    },
    /// Because it was stopped, for this reason.
    Stopped(String),
    /// It could not begin, for this reason.
    NotBegun(String),
}

/// The answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The coordinator has it, and is done with it.
    Taken,
    /// The coordinator cannot read it, today or later.
    Refused,
    /// No answer came, or not now.
    Failed,
}

/// What may happen to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// An introduction was answered: how often to renew, and what is unwanted. `None`: no answer came.
    Introduced(Option<(Duration, Vec<Unwanted>)>),
    /// A renewal was answered, or not.
    Renewed(Renewal),
    /// A slot is ready for work.
    Prepared(SlotId),
    /// A question for work was answered, or not.
    Pulled(SlotId, Pulled),
    /// An attempt ended.
    Ended(Held, Ended),
    /// A record is in the outbox, or, where the disk refused it, in memory.
    Kept(Held),
    /// A report was answered, or not.
    Reported(Held, Answer),
    /// It was looked again which data sets and weights are here.
    Content(BTreeSet<Item>),
    /// A release was sent; one try: what does not arrive is settled by the next introduction, or by the lease's end.
    Released(Held),
    /// The daemon is to end.
    Stop,
    /// Time has passed.
    Time,
}

/// What is to be done. Those of one call in their order; none of them waits for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Introduce the agent under this number, claiming these, with what is here. Answered by [`Input::Introduced`].
    Introduce(u64, Vec<Held>, Here),
    /// Renew these, and tell what is here where that is news. Answered by [`Input::Renewed`].
    Renew(Vec<Held>, Option<Told>),
    /// Make a slot ready for work. Answered by [`Input::Prepared`].
    Prepare(SlotId),
    /// Ask for work. Answered by [`Input::Pulled`].
    Pull(SlotId),
    /// Nobody waits for the answer to a question for work any more.
    Withdraw(SlotId),
    /// Run an attempt. Answered by [`Input::Ended`].
    Run(Held),
    /// Stop an attempt for this reason; its end is told as any end.
    Stop(Held, String),
    /// Make the attempt's record durable. Answered by [`Input::Kept`].
    Keep(Held),
    /// Deliver a kept record. Answered by [`Input::Reported`].
    Report(Held),
    /// The record is delivered, or refused for good: forget it.
    Settle(Held),
    /// Give a lease back for this reason. Answered by [`Input::Released`].
    Release(Held, String),
}

/// What an agent needs to know at its start.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The slots that it offers.
    pub slots: Vec<SlotId>,
    /// Its introductions have numbers above this, and no other daemon's of this agent have.
    pub introductions: u64,
    /// What is here at the start, as far as it was looked.
    pub content: BTreeSet<Item>,
    /// Records that the outbox holds from before.
    pub late: Vec<Held>,
    /// How long a slot rests after each trial.
    pub cool_down: Duration,
    /// Renewals carry progress to people who watch, so they come at least so often.
    pub renew_every: Duration,
    /// For the jitter of waits.
    pub seed: u64,
}

/// An agent's decisions.
#[derive(Debug)]
pub struct Half {
    link: Link,
    slots: Vec<Slot>,
    /// The number of the latest introduction, or news.
    number: u64,
    news: News,
    random: StdRng,
}

impl Half {
    /// An agent at its start. `now` here and below is the monotonic time since any moment.
    pub fn new(setup: Setup) -> Self {
        let mut slots: Vec<Slot> = setup.slots.iter().map(|id| Slot::new(id.clone(), true, setup.cool_down)).collect();
        for held in setup.late {
            let place = slots.iter().position(|s| *s.id() == held.slot).unwrap_or_else(|| {
                // A slot that is no longer offered still has to deliver.
                slots.push(Slot::new(held.slot.clone(), false, setup.cool_down));
                slots.len() - 1
            });
            slots[place].add_late(held);
        }
        let mut news = News::default();
        news.look(setup.content);
        Self {
            link: Link::new(setup.renew_every),
            slots,
            number: setup.introductions,
            news,
            random: StdRng::seed_from_u64(setup.seed),
        }
    }

    /// The first thing to do.
    pub fn start(&mut self) -> Vec<Effect> {
        vec![self.introduce()]
    }

    fn introduce(&mut self) -> Effect {
        self.number += 1;
        Effect::Introduce(self.number, self.held(), self.news.all())
    }

    fn renew(&mut self) -> Effect {
        let told = self.news.changed().map(|here| {
            self.number += 1;
            Told { number: self.number, here }
        });
        Effect::Renew(self.held(), told)
    }

    /// Takes in what happened and says what follows. An answer that nothing waits for changes nothing.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<Effect> {
        let mut out = Vec::new();
        match input {
            Input::Introduced(None) => {
                self.news.answered(false);
                self.link.unanswered(now, &mut self.random);
            }
            Input::Introduced(Some((every, unwanted))) => {
                self.news.answered(true);
                self.link.introduced(every, now);
                self.heed(unwanted, &mut out);
                self.slots.iter_mut().for_each(|slot| slot.known(now, &mut out));
            }
            Input::Renewed(renewal) => match renewal {
                Renewal::Heard(unwanted) => {
                    self.news.answered(true);
                    self.link.renewed(now);
                    self.heed(unwanted, &mut out);
                }
                // The next one may get through; leases outlast many.
                Renewal::Failed => {
                    self.news.answered(false);
                    self.link.renewed(now);
                }
                Renewal::RegisterAgain => {
                    self.link.forgotten();
                    self.slots.iter_mut().for_each(|slot| slot.forgotten(&mut out));
                    out.push(self.introduce());
                }
            },
            Input::Prepared(slot) => self.slot(&slot, |s, _| s.prepared(now, &mut out)),
            Input::Pulled(slot, pulled) => self.slot(&slot, |s, random| s.pulled(pulled, now, random, &mut out)),
            Input::Ended(held, ended) => {
                self.slot(&held.slot.clone(), |s, random| s.ended(held, ended, random, &mut out));
            }
            Input::Kept(held) => self.slot(&held.slot.clone(), |s, _| s.kept(&held, now, &mut out)),
            Input::Reported(held, answer) => {
                self.slot(&held.slot.clone(), |s, random| s.reported(&held, answer, now, random, &mut out));
            }
            Input::Content(here) => self.news.look(here),
            Input::Released(held) => self.slot(&held.slot.clone(), |s, _| s.released(&held, now, &mut out)),
            Input::Stop => self.slots.iter_mut().for_each(|slot| slot.stop(now, &mut out)),
            Input::Time => {
                match self.link.due(now) {
                    Some(link::Due::Introduce) => out.push(self.introduce()),
                    Some(link::Due::Renew) => out.push(self.renew()),
                    None => {}
                }
                self.slots.iter_mut().for_each(|slot| slot.due(now, &mut out));
            }
        }
        out
    }

    fn slot(&mut self, id: &SlotId, act: impl FnOnce(&mut Slot, &mut StdRng)) {
        if let Some(slot) = self.slots.iter_mut().find(|s| s.id() == id) {
            act(slot, &mut self.random);
        }
    }

    fn heed(&mut self, unwanted: Vec<Unwanted>, out: &mut Vec<Effect>) {
        for Unwanted { trial, attempt, reason } in unwanted {
            self.slots.iter_mut().for_each(|slot| slot.unwanted(&trial, attempt, &reason, out));
        }
    }

    /// All leases, and all records that are not settled.
    pub fn held(&self) -> Vec<Held> {
        self.slots.iter().flat_map(Slot::held).cloned().collect()
    }

    /// When [`Input::Time`] is due next.
    pub fn wake(&self) -> Option<Duration> {
        self.slots.iter().filter_map(Slot::wake).chain(self.link.wake()).min()
    }

    /// Whether there is nothing left to do: it was asked to end, and has; or all that it had was to deliver.
    pub fn is_over(&self) -> bool {
        self.slots.iter().all(Slot::is_over)
    }
}

#[cfg(test)]
mod tests;
