//! Mutual TLS between the programs of NetScore Fleet.
//!
//! | module | what it holds |
//! |---|---|
//! | [`identity`] | who a certificate is for: a role and a name |
//! | [`authority`] | the small authority that signs them |
//! | [`credentials`] | a program's own certificate and key, in one file |
//! | [`token`] | what lets a machine or a person join |
//! | [`client`] | connections to a coordinator, encrypted or not |
//! | [`join`] | a token exchanged for a certificate, and its renewal |
//! | [`server`] | connections to a coordinator: handshakes, limits, who is connected |
//! | [`files`] | files that only their owner reads |

pub mod authority;
pub mod client;
pub mod credentials;
pub mod files;
pub mod identity;
pub mod join;
pub mod server;
pub mod token;

/// Generated from `proto/fleet/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the comments are in proto/")]
pub mod rpc {
    tonic::include_proto!("fleet.v1");
}

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;

/// Seconds since 1970, by the system's clock.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The cryptography that all connections use.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// SHA-256, as certificates' fingerprints are.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
