//! Joining a fleet, by itself or before the daemon runs.

use std::path::Path;
use std::time::Duration;

use fleet_agent::daemon;
use fleet_agent::device::Host;
use fleet_secure::identity::Identity;
use fleet_secure::join::JoinError;
use fleet_secure::token::Token;

use super::args::{Join, Run};

/// After a coordinator did not answer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Where a coordinator is, if nobody says otherwise.
const NEARBY: &str = "http://127.0.0.1:7070";

fn joined(token: &Token, address: Option<&str>, state: &Path) -> anyhow::Result<Identity> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(daemon::join(token, address, state, &Host::read().name))
}

/// `fleet-agent join`.
pub(crate) fn join(asked: Join) -> anyhow::Result<()> {
    let token = asked.token.token()?;
    let who = joined(&token, asked.coordinator.as_deref(), &asked.state)?;
    println!("joined as {who}; the certificate is in {}", daemon::identity(&asked.state).display());
    let address = asked.coordinator.as_deref().unwrap_or(&token.coordinator);
    eprintln!(
        "It renews itself while the agent runs. Next: fleet-agent run{}   (to {address})",
        if asked.state == Path::new("fleet-state/agent") {
            String::new()
        } else {
            format!(" --state {}", asked.state.display())
        }
    );
    Ok(())
}

/// Joins if that is asked for and was not done, however long the coordinator is away; returns where it is.
pub(crate) fn before(run: &Run) -> anyhow::Result<String> {
    if let Some(given) = &run.join {
        let token = given.token()?;
        let mut pause = FIRST_PAUSE;
        while daemon::needs(&token, &run.state) {
            match joined(&token, run.coordinator.as_deref(), &run.state) {
                Ok(who) => {
                    tracing::info!(who = %who, serial = who.serial, "joined");
                    break;
                }
                Err(error) if matches!(error.downcast_ref(), Some(JoinError::Unreachable { .. })) => {
                    tracing::warn!("{error}; trying until it answers");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(run.coordinator.clone().or_else(|| daemon::joined(&run.state)).unwrap_or_else(|| NEARBY.to_owned()))
}
