//! Whose certificates count.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::Refused;
use crate::identity::Identity;

/// Serial numbers that no longer count.
#[derive(Debug, Clone, Default)]
pub(super) struct Denied(Arc<RwLock<HashSet<String>>>);

impl Denied {
    pub(super) fn contains(&self, serial: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(serial)
    }

    pub(super) fn replace(&self, serials: HashSet<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = serials;
    }
}

/// The usual checks, then: does it say who it is for, and was it revoked?
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) usual: Arc<dyn ClientCertVerifier>,
    pub(super) denied: Denied,
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.usual.offer_client_auth()
    }

    /// Whoever joins has none yet; what else may be asked without one is decided per request.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.usual.verify_client_cert(end_entity, intermediates, now).and_then(|verified| {
            let wrong = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
            let identity = Identity::of(end_entity).ok().filter(|who| who.role.can_join()).ok_or(wrong)?;
            match self.denied.contains(&identity.serial) {
                true => Err(Error::InvalidCertificate(CertificateError::Revoked)),
                false => Ok(verified),
            }
        });
        if let (Err(_), Ok(who)) = (&checked, Identity::of(end_entity)) {
            // Whose it says it is helps to find the machine; the refusal itself is logged with its address.
            tracing::info!(says = %who, serial = who.serial, "a certificate is not accepted");
        }
        checked
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// What a failed handshake was refused for.
pub(super) fn reason(error: &std::io::Error) -> Refused {
    use CertificateError as C;
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(why)) => match why {
            C::Revoked => Refused::Revoked,
            C::Expired | C::ExpiredContext { .. } => Refused::Expired,
            C::NotValidYet | C::NotValidYetContext { .. } => Refused::NotYetValid,
            C::UnknownIssuer | C::BadSignature => Refused::UnknownAuthority,
            _ => Refused::BadCertificate,
        },
        _ => Refused::HandshakeFailed,
    }
}

/// The coordinator's own certificate, which may be replaced.
#[derive(Debug)]
pub(super) struct Own(RwLock<Arc<CertifiedKey>>);

impl Own {
    pub(super) fn new(key: Arc<CertifiedKey>) -> Self {
        Self(RwLock::new(key))
    }

    pub(super) fn replace(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
