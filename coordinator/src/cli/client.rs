//! The coordinator's client.

use std::time::Duration;

use fleet_common::wire::MAX_MESSAGE_BYTES;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};

use super::Failure;
use crate::service::rpc::operator_client::OperatorClient;

/// A connection to the coordinator.
pub(super) async fn channel(coordinator: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(coordinator.to_owned())
        .ok()
        .filter(|e| e.uri().scheme().is_some() && e.uri().authority().is_some())
        .ok_or_else(|| {
            Failure::usage(format!("expected the coordinator's address as http://HOST:PORT, found \"{coordinator}\""))
        })?;
    endpoint.connect_timeout(Duration::from_secs(5)).connect().await.map_err(|_| {
        Failure::Unreachable(format!(
            "no coordinator answers at {coordinator}; start one with `fleet serve`, or name another with --coordinator"
        ))
    })
}

/// A connected client.
pub(super) async fn connect(coordinator: &str) -> Result<OperatorClient<Channel>, Failure> {
    let channel = channel(coordinator).await?;
    Ok(OperatorClient::new(channel)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}
