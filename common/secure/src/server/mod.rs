//! Connections to a coordinator: who may connect, how many, for how long.
//!
//! Handshakes are done here, apart from the server that answers requests: it gets connections whose other side is known.

mod addresses;
mod bucket;
mod connection;
mod gate;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use bucket::{Bucket, Rate};
pub use connection::Connection;
pub use gate::{Gate, GateError};

use crate::identity::Identity;

/// Why somebody was refused. Each is logged and counted under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// The handshake was not over in time.
    HandshakeTimeout,
    /// What came was no TLS, or the other side refused ours.
    HandshakeFailed,
    /// A certificate of another authority.
    UnknownAuthority,
    /// A certificate whose time is over.
    Expired,
    /// A certificate whose time has not come.
    NotYetValid,
    /// A certificate that was revoked.
    Revoked,
    /// A certificate for something else.
    BadCertificate,
    /// One address shakes hands too often, or has too many handshakes open.
    TooManyHandshakes,
    /// One peer, or all together, have too many connections.
    TooManyConnections,
    /// A connection on which nothing was asked.
    SilentConnection,
    /// A request that needs a certificate came without.
    NoCertificate,
    /// The role does not allow it.
    NotPermitted,
    /// An agent spoke of another agent, or of a lease that is not its own.
    NotItsOwn,
    /// Too many requests.
    RateLimited,
    /// A message beyond the limit.
    MessageTooLarge,
    /// A stream on which nothing came.
    SilentStream,
    /// A request that took too long to arrive or to answer.
    RequestTimeout,
    /// A join token that was never made, or was withdrawn.
    TokenUnknown,
    /// A join token whose time is over.
    TokenExpired,
    /// A join token that was used as often as it may be.
    TokenUsedUp,
    /// Somebody wants to join under a name that is taken.
    NameTaken,
    /// A request for a certificate that is none.
    BadRequest,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 22] = [
        Self::HandshakeTimeout,
        Self::HandshakeFailed,
        Self::UnknownAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::BadCertificate,
        Self::TooManyHandshakes,
        Self::TooManyConnections,
        Self::SilentConnection,
        Self::NoCertificate,
        Self::NotPermitted,
        Self::NotItsOwn,
        Self::RateLimited,
        Self::MessageTooLarge,
        Self::SilentStream,
        Self::RequestTimeout,
        Self::TokenUnknown,
        Self::TokenExpired,
        Self::TokenUsedUp,
        Self::NameTaken,
        Self::BadRequest,
    ];

    /// Its name in metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::TooManyConnections => "too_many_connections",
            Self::SilentConnection => "silent_connection",
            Self::NoCertificate => "no_certificate",
            Self::NotPermitted => "not_permitted",
            Self::NotItsOwn => "not_its_own",
            Self::RateLimited => "rate_limited",
            Self::MessageTooLarge => "message_too_large",
            Self::SilentStream => "silent_stream",
            Self::RequestTimeout => "request_timeout",
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::TokenUsedUp => "token_used_up",
            Self::NameTaken => "name_taken",
            Self::BadRequest => "bad_request",
        }
    }
}

/// Who counts refusals.
pub type Counter = Arc<dyn Fn(Refused) + Send + Sync>;

/// What connections may take. The defaults are far above what a fleet of 500 machines does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for a handshake, and for the first request after it.
    pub handshake: Duration,
    /// Handshakes of one address at once.
    pub handshakes_per_address: u32,
    /// Connections of one address without a certificate, and failed ones.
    pub unauthenticated: Rate,
    /// All connections.
    pub connections: usize,
    /// Connections of one certificate's bearer; and of one address without a certificate.
    pub connections_per_peer: u32,
    /// How long a connection without a certificate may last: it is there to join.
    pub joining: Duration,
    /// Requests at once on one connection.
    pub streams: u32,
    /// Bytes of a request's headers.
    pub header_bytes: u32,
    /// Time for a request that is one message, from its headers to the answer's.
    pub request: Duration,
    /// Silence of a stream of messages.
    pub silence: Duration,
    /// Requests of one bearer.
    pub requests: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            // A rack of 500 machines may come back, or join, at once from behind one address.
            handshakes_per_address: 1024,
            unauthenticated: Rate { per_second: 20.0, burst: 600.0 },
            connections: 8192,
            connections_per_peer: 64,
            joining: Duration::from_secs(30),
            streams: 256,
            header_bytes: 16 << 10,
            // A question for work waits up to 55 s on purpose.
            request: Duration::from_secs(75),
            silence: Duration::from_secs(120),
            requests: Rate { per_second: 200.0, burst: 2000.0 },
        }
    }
}

/// The other side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// Who it is, if it showed a certificate.
    pub identity: Option<Arc<Identity>>,
}
