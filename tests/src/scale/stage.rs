//! A coordinator in a folder of its own, and who asks it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use fleet_secure::client::{channel, endpoint};
use tonic::transport::Channel;

use super::campaign::textures;
use crate::load::Serving;

/// A running coordinator, its folder, and a connection of somebody who may ask everything.
pub struct Stage {
    /// The process.
    pub serving: Serving,
    /// Its program.
    program: PathBuf,
    /// Everything of it and of its agents.
    folder: tempfile::TempDir,
    operator: OperatorClient<Channel>,
    /// Whether connections are encrypted.
    pub encrypted: bool,
}

impl Stage {
    /// Starts a coordinator; with certificates, if `encrypted`.
    ///
    /// # Errors
    /// It does not start, or cannot be reached.
    pub async fn set(program: &Path, encrypted: bool) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("cannot make a folder: {e}"))?;
        let identity = folder.path().join("operator.pem");
        if encrypted {
            let mut command = Command::new(program);
            command.args(["certs", "init", "--state"]).arg(folder.path().join("coordinator"));
            said(command.env("FLEET_IDENTITY", &identity))?;
        }
        let serving = Serving::start(program, &folder.path().join("coordinator"))?;
        let to = endpoint(&serving.url).map_err(|e| e.to_string())?;
        let channel = channel(&to, &identity).map_err(|e| e.to_string())?;
        let operator = OperatorClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { serving, program: program.to_owned(), folder, operator, encrypted })
    }

    /// The folder of an agent.
    pub(super) fn agent(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("agent-{number}"))
    }

    /// A token that so many agents can join with.
    pub(super) fn token(&self, uses: usize) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(["join-token", "--json", "--uses", &uses.to_string(), "--address", &self.serving.url, "--state"]);
        let text = said(command.arg(self.folder.path().join("coordinator")))?;
        let document: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        document["token"].as_str().map(str::to_owned).ok_or_else(|| format!("expected a token, found {text}"))
    }

    /// Submits a campaign file as `fleet submit` does; returns the trials that it has, and how long that took.
    ///
    /// # Errors
    /// It is refused.
    pub async fn submit(&self, toml: String) -> Result<(u64, Duration), String> {
        let from = Instant::now();
        let request =
            v1::SubmitRequest { file_name: "bench.toml".to_owned(), toml, datasets: vec![textures()], weights: vec![] };
        let reply = self.operator.clone().submit(request).await.map_err(|s| refused(&s))?.into_inner();
        Ok((reply.trials, from.elapsed()))
    }

    /// Asks for the status of everything; returns it and how long that took.
    ///
    /// # Errors
    /// It is refused.
    pub async fn status(&self) -> Result<(v1::StatusReply, Duration), String> {
        let from = Instant::now();
        let reply = self.operator.clone().status(v1::StatusRequest { campaign: None }).await;
        Ok((reply.map_err(|s| refused(&s))?.into_inner(), from.elapsed()))
    }
}

/// What the coordinator said.
pub(super) fn refused(status: &tonic::Status) -> String {
    format!("the coordinator says: {} ({:?})", status.message(), status.code())
}

/// What a command wrote.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
