//! How a trial ended.

use serde::{Deserialize, Serialize};

use super::PeakPlace;

/// How a trial ended. The class decides what happens next (see `coordinator/src/core`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum Outcome {
    /// All steps done and evaluated.
    Completed,
    /// The memory cap was hit: a result in itself, never repeated.
    DoesNotFit {
        /// Bytes that would have been live.
        needed_bytes: u64,
        /// The cap.
        budget_bytes: u64,
        /// What was at work: a phase, and a block where one was.
        place: PeakPlace,
    },
    /// The loss was no longer a number: a result in itself, never repeated.
    Diverged {
        /// At which step.
        step: u32,
    },
    /// Something was wrong with what was asked: it would fail again.
    BadInput {
        /// What was expected, what was found, what to do.
        message: String,
    },
    /// The worker ended without a result: a signal, a panic, a failure inside libtorch.
    Crashed {
        /// As much as is known.
        message: String,
    },
    /// Stopped on request.
    Cancelled,
}

/// The class of an outcome, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeClass {
    /// See [`Outcome::Completed`].
    Completed,
    /// See [`Outcome::DoesNotFit`].
    DoesNotFit,
    /// See [`Outcome::Diverged`].
    Diverged,
    /// See [`Outcome::BadInput`].
    BadInput,
    /// See [`Outcome::Crashed`].
    Crashed,
    /// See [`Outcome::Cancelled`].
    Cancelled,
    /// The trial lost its agents too often; there is no record.
    Lost,
}

impl OutcomeClass {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::Completed, Self::DoesNotFit, Self::Diverged, Self::BadInput, Self::Crashed, Self::Cancelled, Self::Lost];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::DoesNotFit => "does not fit",
            Self::Diverged => "diverged",
            Self::BadInput => "bad input",
            Self::Crashed => "crashed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// The class with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Whether this says something about the cell, rather than about what happened to a machine or a file. Only the
    /// others are worth a retry.
    pub const fn is_result(self) -> bool {
        matches!(self, Self::Completed | Self::DoesNotFit | Self::Diverged)
    }
}

impl Outcome {
    /// The class.
    pub const fn kind(&self) -> OutcomeClass {
        match self {
            Self::Completed => OutcomeClass::Completed,
            Self::DoesNotFit { .. } => OutcomeClass::DoesNotFit,
            Self::Diverged { .. } => OutcomeClass::Diverged,
            Self::BadInput { .. } => OutcomeClass::BadInput,
            Self::Crashed { .. } => OutcomeClass::Crashed,
            Self::Cancelled => OutcomeClass::Cancelled,
        }
    }

    /// The class as tables show it.
    pub const fn class(&self) -> &'static str {
        self.kind().name()
    }

    /// The reason in words, for everything but a plain success.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Completed | Self::Cancelled => None,
            Self::DoesNotFit { needed_bytes, budget_bytes, place } => Some(format!(
                "needs {} of {} during {place}",
                crate::units::Bytes(*needed_bytes),
                crate::units::Bytes(*budget_bytes)
            )),
            Self::Diverged { step } => Some(format!("the loss was not a number at step {step}")),
            Self::BadInput { message } | Self::Crashed { message } => Some(message.clone()),
        }
    }
}
