//! The gRPC edge: messages in, the core's inputs out, and back.
//!
//! Everything from the network passes through `fleet_common::wire` before it gets further than this module.

mod agents;
mod arrivals;
mod artifacts;
mod backup;
mod certificates;
mod confined;
mod content;
mod import;
mod operator;
mod retention;
mod samples;
mod slots;

use std::sync::Arc;

use fleet_common::wire::{MAX_MESSAGE_BYTES, WireError};
use tonic::Status;
use tonic::codec::CompressionEncoding;

use crate::core::Refusal;
use crate::driver::{DriverError, Handle};
use crate::metrics::Counts;
use crate::store::{Index, Samples};

/// Generated from `proto/fleet/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the comments are in proto/")]
pub mod rpc {
    tonic::include_proto!("fleet.v1");
}

pub use artifacts::Artifacts;
pub use certificates::Desk;
pub use content::ContentService;
use rpc::agents_server::AgentsServer;
use rpc::operator_server::OperatorServer;

/// What the services share.
#[derive(Clone)]
pub struct Service {
    driver: Handle,
    index: Arc<dyn Index>,
    samples: Arc<Samples>,
    counts: Arc<Counts>,
    /// Address of the artifact store that agents talk to themselves.
    artifact_store: Option<String>,
}

impl Service {
    /// A service on a running driver, reading from its store; what arrives is counted in `counts`.
    pub fn new(driver: Handle, index: Arc<dyn Index>, samples: Arc<Samples>, counts: Arc<Counts>) -> Self {
        Self { driver, index, samples, counts, artifact_store: None }
    }

    /// The same, which tells agents to talk to the artifact store at this address themselves.
    pub fn with_artifact_store(self, address: Option<String>) -> Self {
        Self { artifact_store: address, ..self }
    }

    /// The service for agents.
    pub fn agents(&self) -> AgentsServer<Self> {
        AgentsServer::new(self.clone())
            .accept_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The service for people's commands.
    pub fn operator(&self) -> OperatorServer<Self> {
        // Records and samples shrink to a fraction; whoever does not understand zstd gets them as they are.
        OperatorServer::new(self.clone())
            .send_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// The one table from error to gRPC code.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Storage(String),
    #[error("{0}")]
    Removed(String),
    #[error("{0}")]
    NotItsOwn(String),
    #[error("the core answered another question than was asked; this is a bug")]
    WrongAnswer,
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let text = error.to_string();
        match error {
            ServiceError::Wire(_) | ServiceError::BadRequest(_) => Self::invalid_argument(text),
            ServiceError::Driver(_) | ServiceError::Storage(_) => Self::unavailable(text),
            ServiceError::Refused(Refusal::UnknownCampaign { .. }) => Self::not_found(text),
            ServiceError::Removed(_) | ServiceError::Refused(Refusal::NotNow(_) | Refusal::Imported { .. }) => {
                Self::failed_precondition(text)
            }
            ServiceError::NotItsOwn(_) => Self::permission_denied(text),
            ServiceError::WrongAnswer => Self::internal(text),
        }
    }
}
