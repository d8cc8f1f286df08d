//! Agents: how to start them.

mod script;

use clap::Subcommand;

use super::Failure;

/// `fleet agents`.
#[derive(Debug, Subcommand)]
pub(super) enum Agents {
    /// Prints a file that starts agents, filled in: for systemd, Kubernetes, Slurm or containers.
    #[command(subcommand, after_help = script::EXAMPLES)]
    Script(script::Script),
}

impl Agents {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Script(script) => script.run(),
        }
    }
}
