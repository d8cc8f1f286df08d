//! Why a holder is told to stop, in words that people read and agents understand.

use std::fmt::Display;

use crate::id::AgentId;

/// Nobody goes on with the trial, unless it is submitted again.
pub const CALLED_OFF: &str = "it was called off";
/// Somebody's record counts.
pub const FINISHED: &str = "it is finished";
/// The end of what is said where nobody has the trial.
const WAITS: &str = "is over, and it waits for another";

/// `attempt` was taken back, and the trial was not lent again yet.
pub fn waits(attempt: impl Display) -> String {
    format!("attempt {attempt} {WAITS}")
}

/// The trial was lent again, to `agent`.
pub fn taken(attempt: impl Display, agent: &AgentId) -> String {
    format!("attempt {attempt} has it now ({agent})")
}

/// Whether what was done so far may still be gone on from where it is: nobody has the trial, or another slot of `agent`.
pub fn may_go_on_here(reason: &str, agent: &AgentId) -> bool {
    reason == CALLED_OFF || reason.ends_with(WAITS) || reason.ends_with(&format!("has it now ({agent})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Attempt;

    #[test]
    fn work_stays_where_nobody_else_goes_on_with_it() {
        let [a, b]: [AgentId; 2] = ["a", "b"].map(|id| id.parse().expect("an id"));
        for reason in [CALLED_OFF.to_owned(), waits(Attempt::FIRST), taken(Attempt::FIRST.next(), &a)] {
            assert!(may_go_on_here(&reason, &a), "{reason}");
        }
        for reason in [FINISHED.to_owned(), taken(Attempt::FIRST.next(), &b), "anything else".to_owned()] {
            assert!(!may_go_on_here(&reason, &a), "{reason}");
        }
    }
}
