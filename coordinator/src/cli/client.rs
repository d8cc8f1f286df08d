//! The coordinator's client.

use std::path::PathBuf;

use fleet_common::wire::MAX_MESSAGE_BYTES;
use fleet_secure::client::{self, ClientError, endpoint, explain, is_encrypted};
use fleet_secure::credentials::Credentials;
use fleet_secure::{join, unix_now};
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use super::Failure;
use crate::service::rpc::operator_client::OperatorClient;

/// Where a coordinator is, if nobody says otherwise.
const NEARBY: &str = "http://127.0.0.1:7070";

/// The file with this person's certificate.
pub(super) fn identity() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("FLEET_IDENTITY").unwrap_or_else(|| {
        let base = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
        base.unwrap_or_default().join("netscore-fleet/identity.pem")
    })
}

/// The coordinator that this person's certificate is for, or else the one on this machine.
pub(super) fn usual_coordinator() -> String {
    let path = identity();
    let joined = path.exists().then(|| Credentials::load(&path).ok()).flatten();
    joined.and_then(|c| c.coordinator().map(str::to_owned)).unwrap_or_else(|| NEARBY.to_owned())
}

/// A connected client.
pub(super) async fn connect(coordinator: &str) -> Result<OperatorClient<Channel>, Failure> {
    Ok(OperatorClient::new(channel(coordinator).await?)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// A connection, with this person's certificate where it is encrypted.
pub(super) async fn channel(coordinator: &str) -> Result<Channel, Failure> {
    let endpoint = endpoint(coordinator).map_err(refused)?;
    let identity = identity();
    let connected = client::connected(&endpoint, &identity).await.map_err(refused)?;
    let channel = connected.map_err(|error| {
        Failure::Unreachable(match explain(error.as_ref()) {
            Some(why) => format!("no connection to {coordinator}: {why}"),
            None => format!(
                "no coordinator answers at {coordinator}; start one with `fleet serve`, or name another with --coordinator"
            ),
        })
    })?;
    if is_encrypted(coordinator) {
        renew_if_due(&channel, &identity).await;
    }
    Ok(channel)
}

/// People do not think of certificates that end: whoever uses one after two thirds of its time gets the next.
async fn renew_if_due(channel: &Channel, identity: &std::path::Path) {
    let Ok(who) = Credentials::load(identity).and_then(|c| c.identity()) else { return };
    let now = unix_now();
    if who.renew_at() <= now
        && now < who.not_after
        && let Err(error) = join::renew(channel.clone(), identity).await
    {
        eprintln!(
            "note: your certificate could not be renewed, and ends in {} h: {error}",
            (who.not_after - now) / 3600
        );
    }
}

fn refused(error: ClientError) -> Failure {
    Failure::usage(error.to_string())
}
