//! The way in: handshakes, who is connected, and ending connections whose certificate no longer counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fleet_common::id::PeerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::addresses::Addresses;
use super::connection::{Connection, Entry};
use super::verify::{Denied, Own, Verifier, reason};
use super::{Bucket, Counter, Limits, Peer, Rate, Refused};
use crate::credentials::{Credentials, CredentialsError};
use crate::identity::{Identity, Role};
use crate::{provider, unix_now};

/// Connections that wait for the server.
const WAITING: usize = 64;
/// A timer cannot be set further ahead than this; nobody's connection lasts that long.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// After the system had no more files to give.
const BREATH: Duration = Duration::from_millis(100);

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The coordinator's certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The library refuses.
    #[error("connections cannot be encrypted: {0}")]
    Tls(String),
}

/// An open connection.
struct Open {
    peer: Peer,
    /// Ends it.
    revoke: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Counts {
    next: u64,
    /// Connections, and handshakes under way.
    total: usize,
    open: HashMap<u64, Open>,
    by_bearer: HashMap<(Role, PeerName), u32>,
    addresses: Addresses,
}

/// What all connections share.
pub(super) struct Shared {
    limits: Limits,
    denied: Denied,
    counts: Mutex<Counts>,
    counter: Counter,
    /// How often strangers are logged, and how many were not since, by reason: they must not fill the disk.
    logged: Mutex<HashMap<Refused, (Bucket, u64)>>,
}

/// Lines about strangers, per reason.
const LINES: Rate = Rate { per_second: 5.0, burst: 100.0 };

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs and counts. Of strangers not every one is logged; the next line says how many were passed over.
    pub(super) fn refuse(&self, refused: Refused, peer: &Peer, why: &str) {
        (self.counter)(refused);
        let reason = refused.reason();
        match &peer.identity {
            Some(who) => {
                tracing::warn!(reason, address = %peer.address, who = %who, serial = who.serial, "a connection was refused: {why}");
            }
            None => {
                let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                let (bucket, passed_over) = logged.entry(refused).or_insert_with(|| (Bucket::full(LINES, now), 0));
                if bucket.take(LINES, now) {
                    let passed_over = std::mem::take(passed_over);
                    tracing::warn!(reason, address = %peer.address, passed_over, "a connection was refused: {why}");
                } else {
                    *passed_over += 1;
                }
            }
        }
    }

    pub(super) fn close(&self, number: u64) {
        let mut counts = self.counts();
        let Some(open) = counts.open.remove(&number) else { return };
        counts.total -= 1;
        match &open.peer.identity {
            Some(who) => {
                let key = (who.role, who.name.clone());
                let left = counts.by_bearer.get_mut(&key).map(|n| {
                    *n = n.saturating_sub(1);
                    *n
                });
                if left == Some(0) {
                    counts.by_bearer.remove(&key);
                }
            }
            None => counts.addresses.close(open.peer.address.ip()),
        }
    }

    /// Somebody is at the door.
    fn begin(&self, address: SocketAddr) -> Result<(), Refused> {
        let mut counts = self.counts();
        if counts.total >= self.limits.connections {
            return Err(Refused::TooManyConnections);
        }
        counts.addresses.begin(address.ip(), &self.limits, Instant::now())?;
        counts.total += 1;
        Ok(())
    }

    /// Nobody came in.
    fn abandon(&self, address: SocketAddr) {
        let mut counts = self.counts();
        counts.total -= 1;
        counts.addresses.end(address.ip(), false, &self.limits, Instant::now());
    }

    /// Somebody came in. The connection is listed in either case, and given back when the entry is dropped.
    fn enter(self: &Arc<Self>, peer: &Peer) -> (Entry, oneshot::Receiver<()>, Result<(), Refused>) {
        let (revoke, revoked) = oneshot::channel();
        let (limits, now, ip) = (&self.limits, Instant::now(), peer.address.ip());
        let mut counts = self.counts();
        counts.addresses.end(ip, peer.identity.is_some(), limits, now);
        let may = match &peer.identity {
            Some(who) => {
                let open = counts.by_bearer.entry((who.role, who.name.clone())).or_default();
                *open += 1;
                if *open > limits.connections_per_peer { Err(Refused::TooManyConnections) } else { Ok(()) }
            }
            None => counts.addresses.open(ip, limits, now),
        };
        let number = counts.next;
        counts.next += 1;
        counts.open.insert(number, Open { peer: peer.clone(), revoke: Some(revoke) });
        drop(counts);
        // It may have been revoked between the handshake and the list.
        let denied = peer.identity.as_ref().is_some_and(|who| self.denied.contains(&who.serial));
        let may = if denied { Err(Refused::Revoked) } else { may };
        (Entry { shared: self.clone(), number }, revoked, may)
    }
}

/// Lets in whoever may, encrypted.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
    own: Arc<Own>,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Gate {
    /// One that shows `credentials`, lets in bearers of certificates of the same authority, and whoever has none so that
    /// they can join.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub fn new(credentials: &Credentials, limits: Limits, counter: Counter) -> Result<Self, GateError> {
        let tls = |e: &dyn std::fmt::Display| GateError::Tls(e.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(credentials.authority().clone()).map_err(|e| tls(&e))?;
        let usual = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| tls(&e))?;
        let denied = Denied::default();
        let own = Arc::new(Own::new(credentials.certified_key()?));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| tls(&e))?
            .with_client_cert_verifier(Arc::new(Verifier { usual, denied: denied.clone() }))
            .with_cert_resolver(own.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would not look at the certificate again.
        config.send_tls13_tickets = 0;
        let shared = Arc::new(Shared { limits, denied, counts: Mutex::default(), counter, logged: Mutex::default() });
        Ok(Self { shared, own, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Connections from `listener`, each after its handshake.
    pub fn incoming(&self, listener: TcpListener) -> ReceiverStream<std::io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(accept(self.clone(), listener, sender));
        ReceiverStream::new(receiver)
    }

    /// Shows another certificate of the same authority from here on.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn reload(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        self.own.replace(credentials.certified_key()?);
        Ok(())
    }

    /// These serial numbers no longer count; returns how many connections end for it.
    pub fn deny(&self, serials: HashSet<String>) -> u32 {
        self.shared.denied.replace(serials);
        let mut ended = 0;
        let mut counts = self.shared.counts();
        for open in counts.open.values_mut() {
            let Some(who) = open.peer.identity.as_ref().filter(|who| self.shared.denied.contains(&who.serial)) else {
                continue;
            };
            if let Some(revoke) = open.revoke.take() {
                let _ = revoke.send(());
                ended += 1;
                (self.shared.counter)(Refused::Revoked);
                let (address, serial) = (open.peer.address, &who.serial);
                tracing::warn!(reason = Refused::Revoked.reason(), %address, who = %who, serial, "a connection was ended: its certificate was revoked");
            }
        }
        ended
    }

    /// Whether this certificate still counts.
    ///
    /// # Errors
    /// It does not, for this reason.
    pub fn check(&self, who: &Identity) -> Result<(), Refused> {
        if self.shared.denied.contains(&who.serial) {
            return Err(Refused::Revoked);
        }
        if unix_now() > who.not_after { Err(Refused::Expired) } else { Ok(()) }
    }

    /// Logs and counts a refusal.
    pub fn refuse(&self, refused: Refused, peer: &Peer, why: &str) {
        self.shared.refuse(refused, peer, why);
    }

    /// What connections may take.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Open connections by serial number.
    pub fn connections(&self) -> BTreeMap<String, u32> {
        let mut by_serial = BTreeMap::new();
        for who in self.shared.counts().open.values().filter_map(|open| open.peer.identity.as_ref()) {
            *by_serial.entry(who.serial.clone()).or_default() += 1;
        }
        by_serial
    }
}

async fn accept(gate: Gate, listener: TcpListener, sender: mpsc::Sender<std::io::Result<Connection>>) {
    loop {
        let (tcp, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
            () = sender.closed() => return,
        };
        if let Err(refused) = gate.shared.begin(address) {
            gate.refuse(refused, &Peer { address, identity: None }, "before its handshake");
            continue;
        }
        let (gate, sender) = (gate.clone(), sender.clone());
        tokio::spawn(async move {
            if let Some(connection) = shake_hands(&gate, tcp, address).await {
                let _ = sender.send(Ok(connection)).await;
            }
        });
    }
}

async fn shake_hands(gate: &Gate, tcp: TcpStream, address: SocketAddr) -> Option<Connection> {
    // Answers are small and somebody waits for each.
    let _ = tcp.set_nodelay(true);
    let (shared, limits) = (&gate.shared, gate.limits());
    let stranger = Peer { address, identity: None };
    let stream = match tokio::time::timeout(limits.handshake, gate.acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            shared.abandon(address);
            match failed {
                Ok(Err(error)) => gate.refuse(reason(&error), &stranger, &error.to_string()),
                _ => gate.refuse(Refused::HandshakeTimeout, &stranger, "its handshake took too long"),
            }
            return None;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let identity = match certificate.map(Identity::of).transpose() {
        Ok(identity) => identity.map(Arc::new),
        Err(error) => {
            shared.abandon(address);
            gate.refuse(Refused::BadCertificate, &stranger, &error.to_string());
            return None;
        }
    };
    let life = identity.as_ref().map_or(limits.joining, |who| {
        Duration::from_secs(who.not_after.saturating_sub(unix_now()).saturating_add(1)).min(FAR)
    });
    let peer = Peer { address, identity };
    let (entry, revoked, may) = shared.enter(&peer);
    let ends = Box::pin(tokio::time::sleep(life));
    let silent = Some(Box::pin(tokio::time::sleep(limits.handshake)));
    let connection = Connection { stream, peer, entry, revoked, ends, silent, came: 0 };
    match may {
        Ok(()) => Some(connection),
        Err(refused) => {
            gate.refuse(refused, &connection.peer, "after its handshake");
            connection.turn_away().await;
            None
        }
    }
}
