//! One device slot as the agent's half sees it. The drawing is in the parent module.

use std::collections::VecDeque;
use std::time::Duration;

use fleet_common::id::{Attempt, SlotId, TrialId};
use rand::rngs::StdRng;

use super::backoff::Backoff;
use super::{Answer, Effect, Ended, FAREWELL, Held, Pulled, SHUTTING_DOWN};

/// After a lease that cannot be read, the slot waits this long: the next would be no better.
const UNREADABLE: Duration = Duration::from_secs(10);
/// After a trial that crashed or found bad input the slot pauses, longer each time in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No longer than this: somebody may have put things right.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    /// It waits until the agent is known.
    Nothing,
    /// It is made ready for work.
    Preparing,
    /// It asks for work then.
    Pausing { until: Duration },
    /// A question for work is out.
    Asking,
    /// A worker is at work, and was told to stop or not.
    Working { held: Held, told: bool },
    /// A record is on its way to the disk.
    Keeping { held: Held },
    /// A record is on its way to the coordinator, or goes there again at `again`.
    Delivering { held: Held, since: Duration, again: Option<Duration> },
    /// A lease is on its way back.
    GivingBack { held: Held },
    /// The daemon ends; a record may be left to the next one.
    Over { left: Option<Held> },
}

#[derive(Debug)]
pub(super) struct Slot {
    id: SlotId,
    /// It asks for work; otherwise it only delivers what it has.
    offered: bool,
    prepared: bool,
    /// The coordinator knows the agent.
    is_known: bool,
    doing: Doing,
    /// Records of an earlier daemon, to be delivered first.
    late: VecDeque<Held>,
    cool_down: Duration,
    /// How long it pauses before it asks again.
    pause: Duration,
    asking: Backoff,
    reporting: Backoff,
    failures: Backoff,
    /// Since when the daemon is to end.
    stopping: Option<Duration>,
}

impl Slot {
    pub(super) fn new(id: SlotId, offered: bool, cool_down: Duration) -> Self {
        Self {
            id,
            offered,
            prepared: false,
            is_known: false,
            doing: Doing::Nothing,
            late: VecDeque::new(),
            cool_down,
            pause: Duration::ZERO,
            asking: Backoff::default(),
            reporting: Backoff::default(),
            failures: Backoff::between(FIRST_PAUSE, LONGEST_PAUSE),
            stopping: None,
        }
    }

    pub(super) fn id(&self) -> &SlotId {
        &self.id
    }

    pub(super) fn add_late(&mut self, held: Held) {
        self.late.push_back(held);
    }

    /// What it holds now, then what it has to deliver.
    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        let current = match &self.doing {
            Doing::Working { held, .. }
            | Doing::Keeping { held }
            | Doing::Delivering { held, .. }
            | Doing::GivingBack { held } => Some(held),
            Doing::Over { left } => left.as_ref(),
            Doing::Nothing | Doing::Preparing | Doing::Pausing { .. } | Doing::Asking => None,
        };
        current.into_iter().chain(&self.late)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.doing, Doing::Over { .. })
    }

    /// The coordinator knows the agent.
    pub(super) fn known(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.is_known = true;
        if self.doing == Doing::Nothing {
            self.next(now, out);
        }
    }

    /// The coordinator does not know the agent any more.
    pub(super) fn forgotten(&mut self, out: &mut Vec<Effect>) {
        self.is_known = false;
        if self.doing == Doing::Asking {
            out.push(Effect::Withdraw(self.id.clone()));
            self.doing = Doing::Nothing;
        }
    }

    /// Goes on to whatever comes next, holding nothing.
    fn next(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.doing = if self.stopping.is_some() {
            Doing::Over { left: None }
        } else if let Some(held) = self.late.pop_front() {
            out.push(Effect::Report(held.clone()));
            Doing::Delivering { held, since: now, again: None }
        } else if !self.offered {
            Doing::Over { left: None }
        } else if !self.prepared {
            out.push(Effect::Prepare(self.id.clone()));
            Doing::Preparing
        } else {
            match std::mem::take(&mut self.pause) {
                Duration::ZERO if !self.is_known => Doing::Nothing,
                Duration::ZERO => {
                    out.push(Effect::Pull(self.id.clone()));
                    Doing::Asking
                }
                pause => Doing::Pausing { until: now + pause },
            }
        };
    }

    pub(super) fn prepared(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if self.doing == Doing::Preparing {
            self.prepared = true;
            self.next(now, out);
        }
    }

    pub(super) fn pulled(&mut self, pulled: Pulled, now: Duration, random: &mut StdRng, out: &mut Vec<Effect>) {
        if self.doing != Doing::Asking {
            return;
        }
        match pulled {
            Pulled::Granted(trial, attempt) => {
                self.asking.reset();
                let held = Held { trial, attempt, slot: self.id.clone() };
                out.push(Effect::Run(held.clone()));
                self.doing = Doing::Working { held, told: false };
                return;
            }
            Pulled::Nothing => self.asking.reset(),
            Pulled::Unreadable => self.pause = UNREADABLE,
            Pulled::Failed => self.pause = self.asking.step_by(random),
        }
        self.next(now, out);
    }

    /// The coordinator does not want an attempt. A record of it is delivered nevertheless: it is kept outside the
    /// statistics.
    pub(super) fn unwanted(&mut self, trial: &TrialId, attempt: Attempt, reason: &str, out: &mut Vec<Effect>) {
        if let Doing::Working { held, told: told @ false } = &mut self.doing
            && held.trial == *trial
            && held.attempt == attempt
        {
            *told = true;
            out.push(Effect::Stop(held.clone(), reason.to_owned()));
        }
    }

    pub(super) fn ended(&mut self, of: Held, ended: Ended, random: &mut StdRng, out: &mut Vec<Effect>) {
        if !matches!(&self.doing, Doing::Working { held, .. } if *held == of) {
            return;
        }
        let fit = !matches!(ended, Ended::Record { fit: false } | Ended::NotBegun(_));
        self.pause = if fit {
            self.failures.reset();
            self.cool_down
        } else {
            // A slot that fails at everything should not burn through the queue.
            self.failures.step_by(random)
        };
        self.doing = match ended {
            Ended::Record { .. } => {
                out.push(Effect::Keep(of.clone()));
                Doing::Keeping { held: of }
            }
            Ended::Stopped(reason) | Ended::NotBegun(reason) => {
                out.push(Effect::Release(of.clone(), reason));
                Doing::GivingBack { held: of }
            }
        };
    }

    pub(super) fn kept(&mut self, of: &Held, now: Duration, out: &mut Vec<Effect>) {
        if matches!(&self.doing, Doing::Keeping { held } if held == of) {
            out.push(Effect::Report(of.clone()));
            self.doing = Doing::Delivering { held: of.clone(), since: now, again: None };
        }
    }

    pub(super) fn reported(
        &mut self,
        of: &Held,
        answer: Answer,
        now: Duration,
        random: &mut StdRng,
        out: &mut Vec<Effect>,
    ) {
        let Doing::Delivering { held, again, .. } = &mut self.doing else { return };
        if held != of || again.is_some() {
            return;
        }
        match answer {
            Answer::Taken | Answer::Refused => {
                self.reporting.reset();
                out.push(Effect::Settle(of.clone()));
                self.next(now, out);
            }
            Answer::Failed if self.stopping.is_some() => self.doing = Doing::Over { left: Some(of.clone()) },
            Answer::Failed => *again = Some(now + self.reporting.step_by(random)),
        }
    }

    pub(super) fn released(&mut self, of: &Held, now: Duration, out: &mut Vec<Effect>) {
        if matches!(&self.doing, Doing::GivingBack { held } if held == of) {
            self.next(now, out);
        }
    }

    /// The daemon is to end: what is at work is stopped, what only waits is over.
    pub(super) fn stop(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(now);
        match &mut self.doing {
            Doing::Working { held, told } => {
                if !std::mem::replace(told, true) {
                    out.push(Effect::Stop(held.clone(), SHUTTING_DOWN.to_owned()));
                }
            }
            Doing::Delivering { held, again: Some(_), .. } => self.doing = Doing::Over { left: Some(held.clone()) },
            Doing::Keeping { .. } | Doing::Delivering { .. } | Doing::GivingBack { .. } | Doing::Over { .. } => {}
            Doing::Asking => {
                out.push(Effect::Withdraw(self.id.clone()));
                self.doing = Doing::Over { left: None };
            }
            Doing::Nothing | Doing::Preparing | Doing::Pausing { .. } => self.doing = Doing::Over { left: None },
        }
    }

    fn farewell(&self, since: Duration) -> Option<Duration> {
        self.stopping.map(|stopping| stopping.max(since) + FAREWELL)
    }

    /// Does what is due.
    pub(super) fn due(&mut self, now: Duration, out: &mut Vec<Effect>) {
        match &self.doing {
            Doing::Pausing { until } if *until <= now => self.next(now, out),
            Doing::Delivering { held, since, .. } if self.farewell(*since).is_some_and(|f| f <= now) => {
                self.doing = Doing::Over { left: Some(held.clone()) };
            }
            Doing::Delivering { held, since, again: Some(again) } if *again <= now => {
                out.push(Effect::Report(held.clone()));
                self.doing = Doing::Delivering { held: held.clone(), since: *since, again: None };
            }
            _ => {}
        }
    }

    pub(super) fn wake(&self) -> Option<Duration> {
        match &self.doing {
            Doing::Pausing { until } => Some(*until),
            Doing::Delivering { since, again, .. } => (*again).into_iter().chain(self.farewell(*since)).min(),
            _ => None,
        }
    }
}
