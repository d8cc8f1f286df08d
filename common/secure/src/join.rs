//! A token exchanged for a certificate, and certificates exchanged for new ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_common::id::PeerName;
use fleet_common::wire::v1;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tonic::Status;
use tonic::transport::Channel;
use tower::service_fn;

use crate::client::{self, ClientError, Link, connect, endpoint, explain};
use crate::credentials::{Credentials, CredentialsError};
use crate::identity::Identity;
use crate::rpc::certificates_client::CertificatesClient;
use crate::rpc::join_client::JoinClient;
use crate::token::Token;
use crate::{files, provider, sha256, unix_now};

/// How long the coordinator may take.
const ANSWER: Duration = Duration::from_secs(15);

/// Why nobody joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The certificate that came cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The coordinator does not answer, or is another one.
    #[error("cannot join at {address}: {why}")]
    Unreachable {
        /// Where it was tried.
        address: String,
        /// Why not.
        why: String,
    },
    /// Whoever answers is not the one that was meant, or does not accept the certificate.
    #[error("cannot join at {address}: {why}")]
    Untrusted {
        /// Where it was tried.
        address: String,
        /// Why not.
        why: String,
    },
    /// The coordinator refuses.
    #[error("the coordinator refuses: {0}")]
    Refused(String),
    /// A file or a key cannot be made.
    #[error("{0}")]
    Here(String),
}

/// Trusts whoever shows an authority with this fingerprint and a certificate of it for the right address.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|c| sha256(c) == self.authority);
        let pinned = pinned.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = verifier.map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn here(error: impl std::fmt::Display) -> JoinError {
    JoinError::Here(error.to_string())
}

/// The key that a certificate will be asked for, kept beside `identity` until there is one: an answer that got lost must
/// not cost another use of the token.
fn pending_key(identity: &Path) -> Result<(KeyPair, PathBuf), JoinError> {
    let path = identity.with_extension("key-pending");
    if let Some(key) = std::fs::read_to_string(&path).ok().and_then(|text| KeyPair::from_pem(&text).ok()) {
        return Ok((key, path));
    }
    let key = KeyPair::generate().map_err(here)?;
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        files::make_private_dir(dir).map_err(|e| here(format!("cannot make {}: {e}", dir.display())))?;
    }
    files::write_private(&path, key.serialize_pem().as_bytes())
        .map_err(|e| here(format!("cannot write {}: {e}", path.display())))?;
    Ok((key, path))
}

/// A new key, and the request for a certificate for it.
///
/// # Errors
/// The system has no random numbers.
pub fn new_request() -> Result<(KeyPair, Vec<u8>), JoinError> {
    let key = KeyPair::generate().map_err(here)?;
    let request = request(&key)?;
    Ok((key, request))
}

fn request(key: &KeyPair) -> Result<Vec<u8>, JoinError> {
    Ok(CertificateParams::default().serialize_request(key).map_err(here)?.der().to_vec())
}

/// An answer in time.
async fn answer<T>(address: &str, call: impl Future<Output = Result<T, Status>>) -> Result<T, JoinError> {
    let unreachable = |why: String| JoinError::Unreachable { address: address.to_owned(), why };
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Err(_) => Err(unreachable(format!("no answer within {} s", ANSWER.as_secs()))),
        Ok(Err(status)) => Err(match (explain(&status), std::error::Error::source(&status)) {
            (Some(why), _) => JoinError::Untrusted { address: address.to_owned(), why },
            (None, Some(source)) => unreachable(innermost(source)),
            (None, None) => JoinError::Refused(status.message().to_owned()),
        }),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Joins as `name` and keeps the certificate in the file `identity`. The key is made here and stays here.
///
/// # Errors
/// The coordinator cannot be reached, is not the one that the token is from, or refuses.
pub async fn join(
    token: &Token,
    address: Option<&str>,
    name: &PeerName,
    identity: &Path,
) -> Result<Identity, JoinError> {
    let address = address.unwrap_or(&token.coordinator);
    let endpoint = endpoint(address)?;
    if !client::is_encrypted(address) {
        return Err(JoinError::Client(ClientError::Address(format!(
            "{address} (joining is always encrypted: https://)"
        ))));
    }
    let (key, pending) = pending_key(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(here)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authority: token.authority }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let channel = endpoint.connect_with_connector_lazy(service_fn(move |uri| {
        let config = config.clone();
        async move { connect(uri, config).await.map(TokioIo::new) }
    }));
    let asked =
        v1::JoinRequest { secret: token.secret.as_bytes().to_vec(), name: name.to_string(), request: request(&key)? };
    let reply = answer(address, JoinClient::new(channel).join(asked)).await?.into_inner();
    if sha256(&reply.authority) != token.authority {
        return Err(JoinError::Refused("it answered with another authority than the token's".to_owned()));
    }
    let who = keep(reply, &key, Some(address), identity)?;
    let _ = std::fs::remove_file(pending);
    Ok(who)
}

fn keep(reply: v1::JoinReply, key: &KeyPair, address: Option<&str>, identity: &Path) -> Result<Identity, JoinError> {
    let credentials =
        Credentials::new(reply.certificate.into(), key, reply.authority.into(), address.map(str::to_owned));
    let who = credentials.identity()?;
    // A certificate for another key would be found out at the first connection only.
    credentials.certified_key()?;
    credentials.save(identity)?;
    Ok(who)
}

/// Exchanges the certificate in `identity` for a new one, with a new key.
///
/// # Errors
/// The coordinator cannot be reached or refuses; the old one is still there.
pub async fn renew(channel: Channel, identity: &Path) -> Result<Identity, JoinError> {
    let present = Credentials::load(identity)?;
    let address = present.coordinator().map(str::to_owned);
    let (key, request) = new_request()?;
    let asked = v1::RenewRequest { request };
    let said = address.as_deref().unwrap_or("the coordinator");
    let reply = answer(said, CertificatesClient::new(channel).renew(asked)).await?.into_inner();
    if reply.authority != present.authority().as_ref() {
        return Err(JoinError::Refused("it answered with another authority than the present one".to_owned()));
    }
    keep(reply, &key, address.as_deref(), identity)
}

/// Renews the certificate of a link for as long as the program runs, each time after two thirds of its life. Requests
/// that are under way are not interrupted.
pub async fn keep_renewing(link: Link) {
    let Some(path) = link.identity().map(Path::to_owned) else { return };
    let mut pause = FIRST_PAUSE;
    loop {
        let present = Credentials::load(&path).and_then(|c| c.identity());
        let (due, left) = match &present {
            Ok(who) => (who.renew_at().saturating_sub(unix_now()), who.not_after.saturating_sub(unix_now())),
            // Joining again puts another one there.
            Err(_) => (LOOK_AGAIN.as_secs(), 0),
        };
        if due > 0 {
            // In steps: the clock may be set, and a machine may sleep.
            tokio::time::sleep(Duration::from_secs(due).min(LOOK_AGAIN)).await;
            continue;
        }
        let renewed = async {
            let channel = client::channel(&link.endpoint(), &path)?;
            let who = renew(channel, &path).await?;
            link.renew()?;
            Ok::<_, JoinError>(who)
        };
        match renewed.await {
            Ok(who) => {
                tracing::info!(who = %who, serial = who.serial, until = who.not_after, "the certificate was renewed");
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                if left == 0 {
                    tracing::error!(%error, "the certificate has expired and cannot be renewed; join again with a new token");
                } else {
                    tracing::warn!(%error, seconds_left = left, "the certificate could not be renewed yet");
                }
                tokio::time::sleep(pause.min(Duration::from_secs(left.max(1)))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The clock is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// After a renewal that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
