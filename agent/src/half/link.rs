//! The connection as the agent's half sees it: introduced or not, and when to renew.

use std::time::Duration;

use rand::rngs::StdRng;

use super::backoff::Backoff;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Introduce,
    Renew,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A question is out, and its answer decides.
    Asked,
    /// Something is due then.
    At(Duration, Due),
}

#[derive(Debug)]
pub(super) struct Link {
    standing: Standing,
    /// The longest time between renewals that this side wants.
    at_least: Duration,
    /// The time between renewals.
    every: Duration,
    backoff: Backoff,
}

impl Link {
    /// Before the first introduction, which is under way.
    pub(super) fn new(at_least: Duration) -> Self {
        Self { standing: Standing::Asked, at_least, every: at_least, backoff: Backoff::default() }
    }

    /// An introduction had no answer.
    pub(super) fn unanswered(&mut self, now: Duration, random: &mut StdRng) {
        self.standing = Standing::At(now + self.backoff.step_by(random), Due::Introduce);
    }

    pub(super) fn introduced(&mut self, every: Duration, now: Duration) {
        self.backoff.reset();
        self.every = every.min(self.at_least);
        self.renewed(now);
    }

    /// A renewal is over, whatever came of it.
    pub(super) fn renewed(&mut self, now: Duration) {
        self.standing = Standing::At(now + self.every, Due::Renew);
    }

    /// The coordinator does not know this agent; an introduction is under way.
    pub(super) fn forgotten(&mut self) {
        self.standing = Standing::Asked;
    }

    /// What is due; then it counts as under way.
    pub(super) fn due(&mut self, now: Duration) -> Option<Due> {
        match self.standing {
            Standing::At(at, due) if at <= now => {
                self.standing = Standing::Asked;
                Some(due)
            }
            _ => None,
        }
    }

    pub(super) fn wake(&self) -> Option<Duration> {
        match self.standing {
            Standing::At(at, _) => Some(at),
            Standing::Asked => None,
        }
    }
}
