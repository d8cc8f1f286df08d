//! Tokens, and joining with them.

use std::path::PathBuf;

use clap::Args;
use fleet_common::id::PeerName;
use fleet_common::wire::v1;
use fleet_secure::identity::Role;
use fleet_secure::join::{self, JoinError};
use fleet_secure::token::{Given, Secret, Token};
use fleet_secure::unix_now;
use serde::Serialize;

use super::certs::Place;
use super::secured::{duration, seconds};
use super::{Failure, Json, client, print_json};

/// `fleet join-token`.
#[derive(Debug, Args)]
pub(super) struct JoinToken {
    /// What it lets in: agent (a machine), operator or viewer (people)
    #[arg(long, default_value = "agent")]
    role: Role,
    /// How many machines or people it is good for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    uses: u32,
    /// For how long: such as 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
    valid: u64,
    /// Address under which the joiner reaches the coordinator [default: the one that is used here]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    json: Json,
}

/// `fleet.join-token/1`. The token in it is a secret: this document is what it was asked for.
#[derive(Serialize)]
struct Made {
    schema: &'static str,
    id: String,
    role: &'static str,
    uses: u32,
    valid_until_unix: u64,
    token: String,
}

impl JoinToken {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (token, id, not_after) = match self.place.find()? {
            super::certs::Found::Folder(state) => {
                let mut office = super::certs::office(&state)?;
                let (secret, made) = office.token(self.role, self.uses, self.valid, unix_now())?;
                let address =
                    self.address.clone().or_else(|| office.address()).ok_or_else(|| {
                        Failure::usage("name the coordinator's address with --address https://HOST:PORT")
                    })?;
                (Token { coordinator: address, authority: office.fingerprint(), secret }, made.id, made.not_after)
            }
            super::certs::Found::Remote(coordinator) => {
                let mut client = super::certs::client(&coordinator).await?;
                let request = v1::IssueTokenRequest {
                    role: self.role.name().to_owned(),
                    uses: self.uses,
                    valid_seconds: self.valid,
                };
                let made = client.issue_token(request).await?.into_inner();
                let wrong = || Failure::failed("the coordinator answered with something that is no token");
                let secret = Secret::from_bytes(&made.secret).ok_or_else(wrong)?;
                let authority = made.authority_sha256.try_into().map_err(|_| wrong())?;
                let coordinator = self.address.clone().unwrap_or(coordinator);
                (Token { coordinator, authority, secret }, made.id, made.not_after_unix)
            }
        };
        if !fleet_secure::client::is_encrypted(&token.coordinator) {
            let found = &token.coordinator;
            return Err(Failure::usage(format!("expected an address https://HOST:PORT to join at, found \"{found}\"")));
        }
        if self.json.json {
            print_json(&Made {
                schema: "fleet.join-token/1",
                id,
                role: self.role.name(),
                uses: self.uses,
                valid_until_unix: not_after,
                token: token.reveal(),
            });
            return Ok(());
        }
        say!("{}", token.reveal());
        let program = if self.role == Role::Agent { "fleet-agent" } else { "fleet" };
        eprintln!(
            "Good for {} {}{} within {}. There: {program} join TOKEN\n\
             It is a secret; `fleet certs revoke {id}` withdraws it. It leads to {}.",
            self.uses,
            self.role,
            if self.uses == 1 { "" } else { "s" },
            duration(self.valid),
            token.coordinator
        );
        Ok(())
    }
}

/// `fleet join`.
#[derive(Debug, Args)]
pub(super) struct Join {
    /// The token that `fleet join-token --role operator` (or viewer) printed; - reads it from standard input
    #[arg(value_name = "TOKEN", env = "FLEET_JOIN_TOKEN", hide_env_values = true)]
    token: Given,
    /// Address of the coordinator, if it is another one from here
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    /// Your name in the fleet [default: USER@HOST, as letters, digits and dashes]
    #[arg(long)]
    name: Option<PeerName>,
    /// File for the certificate and its key [default: netscore-fleet/identity.pem in the user's configuration folder]
    #[arg(long, env = "FLEET_IDENTITY", value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl Join {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let token = self.token.token().map_err(|e| Failure::usage(e.to_string()))?;
        let name = match self.name {
            Some(name) => name,
            None => own_name(),
        };
        let identity = self.identity.unwrap_or_else(client::identity);
        let who = join::join(&token, self.coordinator.as_deref(), &name, &identity).await?;
        let address = self.coordinator.as_deref().unwrap_or(&token.coordinator);
        eprintln!(
            "Joined as {who}; the certificate is in {} and renews itself when it is used within {}.\n\
             Commands here now go to {address}: try `fleet status`.",
            identity.display(),
            duration(who.not_after.saturating_sub(unix_now()))
        );
        if who.role == Role::Agent {
            eprintln!("note: that token was for a machine; machines use it with `fleet-agent join`");
        }
        Ok(())
    }
}

/// Who types, and where.
pub(super) fn own_name() -> PeerName {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain: String =
        format!("{user}-{host}").chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(60).collect();
    let name = plain.trim_matches('-').parse();
    name.or_else(|_| "somebody".parse()).expect("a plain word is a name")
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Unreachable { .. } | JoinError::Untrusted { .. } => Self::Unreachable(error.to_string()),
            JoinError::Client(_) => Self::usage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}
