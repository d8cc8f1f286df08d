//! The one command that a person types.

use std::process::ExitCode;

fn main() -> ExitCode {
    fleet_coordinator::cli::run()
}
