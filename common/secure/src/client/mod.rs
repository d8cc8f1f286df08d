//! Connections to a coordinator: one function makes them, whether they are encrypted or not.

mod answered;

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use answered::Answered;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Uri};
use tonic::transport::{Channel, Endpoint};
use tower::{Service, service_fn};

use crate::credentials::{Credentials, CredentialsError};

/// How long connecting may take, the handshake included.
const CONNECT: Duration = Duration::from_secs(5);

/// A failure that lasts is logged this often.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("expected the coordinator's address as https://HOST:PORT or http://HOST:PORT, found \"{0}\"")]
    Address(String),
    /// An encrypted connection needs a certificate.
    #[error(
        "{address} wants a certificate, and there is none in {}; get one with a token that `fleet join-token` prints: \
         `fleet join TOKEN` for people, `fleet-agent join TOKEN` for machines", path.display()
    )]
    NoCertificate {
        /// Where the coordinator is.
        address: String,
        /// Where the certificate should be.
        path: PathBuf,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// The endpoint at an address.
///
/// # Errors
/// The address is not one.
pub fn endpoint(address: &str) -> Result<Endpoint, ClientError> {
    let known = |e: &Endpoint| matches!(e.uri().scheme_str(), Some("http" | "https")) && e.uri().authority().is_some();
    let endpoint = Endpoint::from_shared(address.to_owned()).ok().filter(known);
    let endpoint = endpoint.ok_or_else(|| ClientError::Address(address.chars().take(200).collect()))?;
    Ok(endpoint.connect_timeout(CONNECT))
}

/// Whether an address asks for encryption.
pub fn is_encrypted(address: &str) -> bool {
    address.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
}

/// A channel that connects when it is first used and again whenever the connection is lost; `https` addresses with the
/// certificate that lies in `identity` at that moment.
///
/// # Errors
/// An encrypted connection is asked for, and there is no certificate.
pub fn channel(endpoint: &Endpoint, identity: &Path) -> Result<Channel, ClientError> {
    Ok(match connector(endpoint, identity)? {
        Some(connector) => endpoint.connect_with_connector_lazy(connector),
        None => endpoint.connect_lazy(),
    })
}

/// The same, connected at once; the inner result says whether that worked.
///
/// # Errors
/// As [`channel`].
pub async fn connected(endpoint: &Endpoint, identity: &Path) -> Result<Result<Channel, BoxError>, ClientError> {
    let connected = match connector(endpoint, identity)? {
        Some(connector) => endpoint.connect_with_connector(connector).await,
        None => endpoint.connect().await,
    };
    Ok(connected.map_err(BoxError::from))
}

type Io = TokioIo<Answered<TlsStream<TcpStream>>>;
type Connecting = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

/// What connects to an encrypted endpoint; `None` for one that is not.
fn connector(
    endpoint: &Endpoint,
    identity: &Path,
) -> Result<Option<impl Service<Uri, Response = Io, Error = BoxError, Future = Connecting> + Send + use<>>, ClientError>
{
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(None);
    }
    if !identity.exists() {
        return Err(ClientError::NoCertificate { address: endpoint.uri().to_string(), path: identity.to_owned() });
    }
    // Told now rather than at each try.
    Credentials::load(identity)?.client_config()?;
    let path = identity.to_owned();
    let config = move || Ok::<_, CredentialsError>(Arc::new(Credentials::load(&path)?.client_config()?));
    Ok(Some(service_fn(move |uri: Uri| -> Connecting {
        let config = config();
        Box::pin(async move { connect(uri, config?).await.map(TokioIo::new) })
    })))
}

/// Any error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Connects, shakes hands, and waits until the coordinator has agreed.
pub(crate) async fn connect(uri: Uri, config: Arc<ClientConfig>) -> Result<Answered<TlsStream<TcpStream>>, BoxError> {
    let host = uri.host().ok_or("the address names no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned())?;
    let tcp = TcpStream::connect((bare, uri.port_u16().unwrap_or(443))).await?;
    tcp.set_nodelay(true)?;
    Ok(Answered::wait(TlsConnector::from(config).connect(name, tcp).await?).await?)
}

/// What a failed connection means and what to do about it, where it has to do with certificates.
pub fn explain(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
            let io = error.downcast_ref::<std::io::Error>()?;
            io.get_ref()?.downcast_ref::<rustls::Error>()
        });
        if let Some(tls) = tls {
            return Some(words(tls));
        }
        // HTTP/2 keeps of an error only what it said.
        let said = error.to_string();
        let alerts = [
            AlertDescription::CertificateRevoked,
            AlertDescription::CertificateExpired,
            AlertDescription::UnknownCA,
            AlertDescription::DecryptError,
            AlertDescription::BadCertificate,
            AlertDescription::AccessDenied,
            AlertDescription::CertificateUnknown,
            AlertDescription::UnsupportedCertificate,
        ];
        let alert =
            alerts.into_iter().map(rustls::Error::AlertReceived).find(|alert| said.contains(&alert.to_string()));
        if let Some(alert) = alert {
            return Some(words(&alert));
        }
        next = error.source();
    }
    None
}

fn words(error: &rustls::Error) -> String {
    let again = "join again with a new token (`fleet join-token` prints one)";
    match error {
        rustls::Error::AlertReceived(AlertDescription::CertificateRevoked) => {
            format!("the coordinator has revoked this certificate; if that was not meant, {again}")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            format!(
                "the coordinator says that this certificate has expired, or does not count yet (compare both clocks); {again}"
            )
        }
        rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            format!("this certificate is of another fleet's authority; {again}")
        }
        rustls::Error::AlertReceived(alert) => format!("the coordinator refuses this certificate ({alert:?}); {again}"),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the coordinator's certificate is for other addresses ({error}); connect to one of those, or add this one \
             there: fleet certs renew --name HOST"
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => format!(
            "the coordinator's certificate does not count now ({error}); compare both clocks, or renew it there: fleet certs renew"
        ),
        rustls::Error::InvalidCertificate(_) => format!(
            "whoever answers there is not this fleet's coordinator ({error}): another fleet's, or somebody in between; {again}"
        ),
        rustls::Error::InvalidMessage(_) => {
            "whatever answers there does not encrypt; is it a coordinator with --insecure, whose address is http://?"
                .to_owned()
        }
        other => format!("no encrypted connection: {other}"),
    }
}

/// A channel that can be replaced while requests are under way: those end on the old one, new ones take the new one.
///
/// So a renewed certificate comes into use without interrupting anything.
#[derive(Clone)]
pub struct Link {
    endpoint: Endpoint,
    identity: PathBuf,
    current: Arc<Mutex<Channel>>,
    /// What was last logged of a certificate that does not count, and when.
    told: Arc<Mutex<Option<(String, Instant)>>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("uri", self.endpoint.uri())
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// To the coordinator at `endpoint`, with the certificate in `identity` where it is encrypted.
    ///
    /// # Errors
    /// As [`channel`].
    pub fn new(endpoint: Endpoint, identity: &Path) -> Result<Self, ClientError> {
        let current = Arc::new(Mutex::new(channel(&endpoint, identity)?));
        Ok(Self { endpoint, identity: identity.to_owned(), current, told: Arc::default() })
    }

    /// Uses what lies in the file of the certificate now, for requests from here on.
    ///
    /// # Errors
    /// As [`channel`].
    pub fn renew(&self) -> Result<(), ClientError> {
        let channel = channel(&self.endpoint, &self.identity)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = channel;
        Ok(())
    }

    /// A program that tries again and again says why that is in vain: at once, and then once in a while.
    fn tell(&self, error: &tonic::transport::Error) {
        let Some(why) = explain(error) else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref().is_none_or(|(what, when)| *what != why || when.elapsed() > TELL_AGAIN) {
            tracing::error!(coordinator = %self.endpoint.uri(), "{why}");
            *told = Some((why, Instant::now()));
        }
    }

    /// Where it leads.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Where its certificate is; `None` where nothing is encrypted.
    pub fn identity(&self) -> Option<&Path> {
        (self.endpoint.uri().scheme_str() == Some("https")).then_some(&self.identity)
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut channel = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let link = self.clone();
        Box::pin(async move {
            let answered = async {
                std::future::poll_fn(|context| channel.poll_ready(context)).await?;
                channel.call(request).await
            };
            answered.await.inspect_err(|error| link.tell(error))
        })
    }
}
