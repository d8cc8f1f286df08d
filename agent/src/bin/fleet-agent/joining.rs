//! Joining a fleet, by itself or before the daemon runs.

use std::path::Path;

use fleet_agent::daemon;
use fleet_agent::device::Host;
use fleet_secure::identity::Identity;
use fleet_secure::token::Token;

use super::args::{Join, Run};

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

/// Joins if that is asked for and was not done; returns where the coordinator is.
pub(crate) fn before(run: &Run) -> anyhow::Result<String> {
    if let Some(given) = &run.join
        && !daemon::identity(&run.state).exists()
    {
        let token = given.token()?;
        let who = joined(&token, run.coordinator.as_deref(), &run.state)?;
        tracing::info!(who = %who, serial = who.serial, "joined");
    }
    Ok(run.coordinator.clone().or_else(|| daemon::joined(&run.state)).unwrap_or_else(|| NEARBY.to_owned()))
}
