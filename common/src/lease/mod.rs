//! The life of a trial.
//!
//! ```text
//!          grant, resume                finish
//!  Waiting ───────────► Leased ───────────────────► Finished
//!    ▲ ▲                 │  │                         ▲ │
//!    │ └──── release ────┘  │ cancel                  │ │ retry
//!    │   (lost, returned)   ▼                         │ │
//!    │       cancel      Cancelled                    │ │
//!    │  Waiting ───────────►│          give up        │ │
//!    │  Waiting ────────────┼─────────────────────────┘ │
//!    └─────── retry ────────┴───────────────────────────┘
//! ```
//!
//! A lease lends a trial to one device slot of one agent. Every grant raises the attempt, which fences late reports.
//! It ends when the agent reports, gives it back, or is lost: lost means that *both* its time is over and the agent
//! missed several renewals in a row, because one late heartbeat on a busy network is not a dead machine. An agent that
//! was given up too early and turns out to be still at work takes its lease up again (resume, under the same attempt),
//! as long as nobody else has been granted the trial since; whoever has said itself that the attempt is over cannot.
//! A trial that loses its agents too often is given up.

mod reason;

use serde::{Deserialize, Serialize};

pub use reason::{CALLED_OFF, FINISHED, may_go_on_here, taken, waits};

use crate::id::{AgentId, Attempt, SlotId};

/// Milliseconds on the coordinator's monotonic clock. It restarts with the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl std::ops::Add<u64> for Millis {
    type Output = Self;
    fn add(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// How long leases last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Milliseconds from a renewal to the end of the lease's time.
    pub time_ms: u64,
    /// Milliseconds between renewals that agents are asked for.
    pub renew_every_ms: u64,
    /// Renewals in a row that must be missing before a lease whose time is over is lost.
    pub missed_renewals: u32,
    /// Times that a trial's agent may be lost before the trial ends as lost.
    pub max_losses: u32,
}

impl Default for LeaseTerms {
    /// A minute outlasts a coordinator's restart, a Wi-Fi hiccup and a swapping machine; four missed renewals say that
    /// the silence is the agent's and not one lost packet. A trial that loses three agents has probably killed them.
    fn default() -> Self {
        Self { time_ms: 60_000, renew_every_ms: 15_000, missed_renewals: 4, max_losses: 3 }
    }
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The agent.
    pub agent: AgentId,
    /// Its device slot: never just the agent.
    pub slot: SlotId,
}

/// Why a lease ended without a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    /// The agent fell silent.
    Silent,
    /// The agent is here, and no longer has it: it was restarted.
    Restarted,
    /// The worker ended without a result.
    Crashed,
    /// It cannot run there: the data or weights are not what was asked for.
    Unfit,
    /// The agent gave it back: it is shutting down, or its disk is full.
    Returned,
}

impl Release {
    /// Every cause.
    pub const ALL: [Self; 5] = [Self::Silent, Self::Restarted, Self::Crashed, Self::Unfit, Self::Returned];

    /// Whether the trial may have been what ended the agent or the worker: not for ever will it be tried again.
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::Silent | Self::Restarted | Self::Crashed)
    }

    /// Whether trying elsewhere is better than trying there again.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Returned)
    }
}

/// Where a trial stands. Only [`TrialState::apply`] moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrialState {
    /// It may be granted.
    Waiting,
    /// It is lent to a slot.
    Leased {
        /// To whom.
        holder: Holder,
        /// Latest renewal, or the grant.
        renewed: Millis,
    },
    /// It has a record.
    Finished,
    /// It was called off.
    Cancelled,
}

/// The kinds of [`TrialState`], without what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKind {
    /// See [`TrialState::Waiting`].
    Waiting,
    /// See [`TrialState::Leased`].
    Leased,
    /// See [`TrialState::Finished`].
    Finished,
    /// See [`TrialState::Cancelled`].
    Cancelled,
}

/// Whether the drawing above has an arrow from `from` to `to`.
pub const fn is_transition_valid(from: StateKind, to: StateKind) -> bool {
    use StateKind::{Cancelled, Finished, Leased, Waiting};
    matches!(
        (from, to),
        (Waiting, Leased | Cancelled | Finished)
            | (Leased, Finished | Waiting | Cancelled)
            | (Finished | Cancelled, Waiting)
    )
}

impl TrialState {
    /// The kind of this state.
    pub const fn kind(&self) -> StateKind {
        match self {
            Self::Waiting => StateKind::Waiting,
            Self::Leased { .. } => StateKind::Leased,
            Self::Finished => StateKind::Finished,
            Self::Cancelled => StateKind::Cancelled,
        }
    }
}

/// A trial as the coordinator keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Where it stands.
    pub state: TrialState,
    /// The latest grant, if there ever was one.
    pub attempt: Option<Attempt>,
    /// How often an agent was lost while it held this.
    pub losses: u32,
    /// The holder of the latest attempt was given up, and may be at work on it nevertheless.
    pub resumable: bool,
}

/// A transition that the drawing does not have: a slip of the caller, or a damaged journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a trial cannot go from {from:?} to {to:?}")]
pub struct InvalidTransition {
    /// The state it was in.
    pub from: StateKind,
    /// The state it should have gone to.
    pub to: StateKind,
}

impl Default for Trial {
    fn default() -> Self {
        Self { state: TrialState::Waiting, attempt: None, losses: 0, resumable: false }
    }
}

impl Trial {
    /// The number that the next grant will have.
    pub fn next_attempt(&self) -> Attempt {
        self.attempt.map_or(Attempt::FIRST, Attempt::next)
    }

    /// Whether `holder` holds the lease under `attempt`.
    pub fn is_held(&self, holder: &Holder, attempt: Attempt) -> bool {
        self.attempt == Some(attempt)
            && matches!(&self.state, TrialState::Leased { holder: current, .. } if current == holder)
    }

    fn go(&mut self, to: TrialState) -> Result<(), InvalidTransition> {
        let (from, kind) = (self.state.kind(), to.kind());
        if !is_transition_valid(from, kind) {
            return Err(InvalidTransition { from, to: kind });
        }
        self.state = to;
        Ok(())
    }

    /// Lends the trial.
    ///
    /// # Errors
    /// It is not waiting.
    pub fn grant(&mut self, holder: Holder, attempt: Attempt, now: Millis) -> Result<(), InvalidTransition> {
        self.go(TrialState::Leased { holder, renewed: now })?;
        self.attempt = Some(attempt);
        Ok(())
    }

    /// Lends the trial again to the holder of its latest attempt, who never stopped working on it.
    ///
    /// # Errors
    /// It is not waiting. That `attempt` is the latest is the caller's to check: see [`Trial::may_resume`].
    pub fn resume(&mut self, holder: Holder, now: Millis) -> Result<(), InvalidTransition> {
        self.go(TrialState::Leased { holder, renewed: now })
    }

    /// Whether a holder under `attempt` may take the lease up again: it was given up for its silence, and nobody else
    /// was granted the trial since.
    pub fn may_resume(&self, attempt: Attempt) -> bool {
        self.resumable && self.state == TrialState::Waiting && self.attempt == Some(attempt)
    }

    /// Whether it waits, and `attempt` was the last that was granted.
    pub fn waits_after(&self, attempt: Attempt) -> bool {
        self.state == TrialState::Waiting && self.attempt == Some(attempt)
    }

    /// Who holds the lease.
    pub fn holder(&self) -> Option<&Holder> {
        match &self.state {
            TrialState::Leased { holder, .. } => Some(holder),
            _ => None,
        }
    }

    /// Notes a renewal. One for another lease than the current one changes nothing.
    pub fn renew(&mut self, by: &Holder, now: Millis) {
        if let TrialState::Leased { holder, renewed } = &mut self.state
            && holder == by
        {
            *renewed = (*renewed).max(now);
        }
    }

    /// Takes the lease back.
    ///
    /// # Errors
    /// It is not leased.
    pub fn release(&mut self, cause: Release) -> Result<(), InvalidTransition> {
        if self.state.kind() != StateKind::Leased {
            return Err(InvalidTransition { from: self.state.kind(), to: StateKind::Waiting });
        }
        self.go(TrialState::Waiting)?;
        self.losses += u32::from(cause.is_loss());
        self.resumable = cause == Release::Silent;
        Ok(())
    }

    /// Ends the trial with a record.
    ///
    /// # Errors
    /// It is not leased.
    pub fn finish(&mut self) -> Result<(), InvalidTransition> {
        if self.state.kind() != StateKind::Leased {
            return Err(InvalidTransition { from: self.state.kind(), to: StateKind::Finished });
        }
        self.go(TrialState::Finished)
    }

    /// Ends the trial without a record: its agents were lost too often.
    ///
    /// # Errors
    /// It is not waiting.
    pub fn give_up(&mut self) -> Result<(), InvalidTransition> {
        if self.state.kind() != StateKind::Waiting {
            return Err(InvalidTransition { from: self.state.kind(), to: StateKind::Finished });
        }
        self.go(TrialState::Finished)
    }

    /// Calls the trial off.
    ///
    /// # Errors
    /// It has already ended.
    pub fn cancel(&mut self) -> Result<(), InvalidTransition> {
        self.go(TrialState::Cancelled)
    }

    /// Opens an ended trial again; its attempts go on counting, its losses start over.
    ///
    /// # Errors
    /// It has not ended.
    pub fn retry(&mut self) -> Result<(), InvalidTransition> {
        self.go(TrialState::Waiting)?;
        self.losses = 0;
        self.resumable = false;
        Ok(())
    }

    /// Whether the holder is lost: both the time is over and enough renewals in a row are missing.
    pub fn is_lost(&self, terms: &LeaseTerms, now: Millis) -> bool {
        let TrialState::Leased { renewed, .. } = &self.state else { return false };
        let silence = now.0.saturating_sub(renewed.0);
        silence >= terms.time_ms && silence >= terms.renew_every_ms * u64::from(terms.missed_renewals)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(n: u8) -> Holder {
        Holder { agent: format!("agent-{n}").parse().expect("an id"), slot: "cpu".parse().expect("a slot") }
    }

    #[test]
    fn a_lease_is_lost_only_when_time_and_renewals_are_both_used_up() {
        let terms = LeaseTerms { time_ms: 60_000, renew_every_ms: 15_000, missed_renewals: 5, max_losses: 3 };
        let mut trial = Trial::default();
        trial.grant(holder(1), Attempt::FIRST, Millis(0)).expect("waiting");
        assert!(!trial.is_lost(&terms, Millis(60_000)), "time is over but only four renewals are missing");
        assert!(trial.is_lost(&terms, Millis(75_000)));
        trial.renew(&holder(2), Millis(70_000));
        assert!(trial.is_lost(&terms, Millis(75_000)), "somebody else's renewal does not count");
        trial.renew(&holder(1), Millis(70_000));
        assert!(!trial.is_lost(&terms, Millis(75_000)));
    }

    #[test]
    fn attempts_fence_former_holders() {
        let mut trial = Trial::default();
        trial.grant(holder(1), trial.next_attempt(), Millis(0)).expect("waiting");
        trial.release(Release::Silent).expect("leased");
        let second = trial.next_attempt();
        trial.grant(holder(2), second, Millis(1)).expect("waiting");
        assert!(!trial.is_held(&holder(1), Attempt::FIRST));
        assert!(!trial.is_held(&holder(2), Attempt::FIRST));
        assert!(trial.is_held(&holder(2), second));
        assert_eq!(trial.losses, 1);
    }

    #[test]
    fn only_who_fell_silent_may_resume() {
        for cause in Release::ALL {
            let mut trial = Trial::default();
            trial.grant(holder(1), Attempt::FIRST, Millis(0)).expect("waiting");
            trial.release(cause).expect("leased");
            assert_eq!(trial.may_resume(Attempt::FIRST), cause == Release::Silent, "{cause:?}");
            assert_eq!(trial.losses, u32::from(!matches!(cause, Release::Unfit | Release::Returned)));
            assert!(trial.release(cause).is_err(), "it is not leased");
        }
    }

    proptest! {
        /// Whatever is tried in whatever order, only arrows of the drawing are taken and the attempt never falls.
        #[test]
        fn only_drawn_transitions_happen(steps in prop::collection::vec(0u8..7, 0..60)) {
            let mut trial = Trial::default();
            for step in steps {
                let before = trial.clone();
                let outcome = match step {
                    0 => trial.grant(holder(1), trial.next_attempt(), Millis(0)),
                    1 => trial.release(Release::Crashed),
                    2 => trial.finish(),
                    3 => trial.cancel(),
                    4 => trial.resume(holder(1), Millis(0)),
                    5 => trial.give_up(),
                    _ => trial.retry(),
                };
                if outcome.is_ok() {
                    prop_assert!(is_transition_valid(before.state.kind(), trial.state.kind()));
                } else {
                    prop_assert_eq!(&before, &trial);
                }
                prop_assert!(trial.attempt >= before.attempt);
            }
        }
    }
}
