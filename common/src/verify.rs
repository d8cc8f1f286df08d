//! What became of reference folders that were run through our implementation: the document that `fleet-agent verify
//! --json` prints, and what a worker answers.

use serde::{Deserialize, Serialize};

/// Name and version of the document.
pub const SCHEMA: &str = "fleet.verify/1";

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// In the order in which they were asked for.
    pub folders: Vec<Folder>,
}

/// One reference folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Folder {
    /// Where it is.
    pub folder: String,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What became of a reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is within its tolerance.
    Passed(Report),
    /// Something is not.
    Failed(Report),
    /// It cannot be run: a kind, an architecture or a method that is not there, or a folder that is not what it says.
    CannotRun {
        /// What was expected, and what was found.
        reason: String,
    },
}

/// What was compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What kind of reference it is.
    pub kind: String,
    /// Of what architecture.
    pub architecture: String,
    /// Everything that was compared.
    pub checks: Vec<Check>,
}

/// One result against its reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What it is, by the reference's name.
    pub name: String,
    /// Largest absolute difference; none if it is not a finite number, or if the two cannot be subtracted.
    pub absolute: Option<f64>,
    /// The same over the reference's largest absolute value.
    pub relative: Option<f64>,
    /// What is allowed, in words.
    pub tolerance: String,
    /// Whether it is kept.
    pub passed: bool,
}

impl Verdict {
    /// The verdict on a report.
    pub fn of(report: Report) -> Self {
        if report.checks.iter().all(|c| c.passed) { Self::Passed(report) } else { Self::Failed(report) }
    }
}
