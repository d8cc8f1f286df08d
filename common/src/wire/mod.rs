//! The gRPC messages, and the one place that parses them into domain types.
//!
//! A message from a network is text until it has passed through here: ids are checked, lists that must be parallel are
//! compared, JSON documents are read. Generated types stop at this module and at the services' edges.

mod convert;

pub use convert::{WireError, batch, check, lease, samples, settings, trial};

/// Generated from `proto/fleet/v1`.
#[allow(missing_docs, clippy::all, reason = "generated; the comments are in proto/")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/fleet.v1.rs"));
}

/// The largest message that either side accepts, bytes. The largest that occurs is a submitted campaign of many cells;
/// records and sample batches are far smaller.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Metadata of a stream of samples: which agent sends it, for the coordinator's log.
pub const AGENT_HEADER: &str = "fleet-agent";
/// The same for the slot that they are of.
pub const SLOT_HEADER: &str = "fleet-slot";

/// Bytes of a blob in one message, to agents.
pub const CONTENT_CHUNK_BYTES: usize = 256 << 10;
/// Bytes of a blob in one message that a coordinator accepts.
pub const MOST_PUT_BYTES: usize = 1 << 20;
/// Blobs that one question may name.
pub const MOST_BLOBS: usize = 4096;

/// Samples per batch: about 40 kB, a second of 20 series at 100 Hz.
pub const MAX_SAMPLES_PER_BATCH: usize = 2048;
