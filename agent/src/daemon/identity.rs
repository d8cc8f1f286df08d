//! The agent's certificate: got with a token, kept in the state folder, for the agent's own id.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fleet_common::id::PeerName;
use fleet_secure::credentials::Credentials;
use fleet_secure::identity::{Identity, Role};
use fleet_secure::join;
use fleet_secure::token::Token;
use fleet_secure::{sha256, unix_now};

use super::agent_id;

/// The file with the agent's certificate and key.
pub fn identity(state: &Path) -> PathBuf {
    state.join("identity.pem")
}

/// Exchanges a token for the certificate of the agent with this state folder. `address` is where the coordinator is, if
/// not where the token says.
///
/// # Errors
/// The coordinator cannot be reached, is another one than the token's, or refuses; or the token was for a person.
pub async fn join(token: &Token, address: Option<&str>, state: &Path, host: &str) -> anyhow::Result<Identity> {
    std::fs::create_dir_all(state).with_context(|| format!("cannot make the state folder {}", state.display()))?;
    let name: PeerName = agent_id(state, host)?.as_str().parse()?;
    let who = join::join(token, address, &name, &identity(state)).await?;
    anyhow::ensure!(
        who.role == Role::Agent,
        "that token was for a person ({}), and people use it with `fleet join`; ask for one with `fleet join-token`",
        who.role
    );
    Ok(who)
}

/// Whether the agent with this state folder has no certificate that this token could have given it and that still counts.
pub fn needs(token: &Token, state: &Path) -> bool {
    let present = Credentials::load(&identity(state)).ok();
    let of_this_fleet = present.filter(|c| sha256(c.authority()) == token.authority);
    of_this_fleet.and_then(|c| c.identity().ok()).is_none_or(|who| who.not_after <= unix_now())
}

/// The coordinator that the agent with this state folder has joined.
pub fn joined(state: &Path) -> Option<String> {
    let path = identity(state);
    path.exists().then(|| Credentials::load(&path).ok()).flatten()?.coordinator().map(str::to_owned)
}
