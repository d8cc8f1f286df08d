//! A small authority: one key that signs the certificates of one fleet.

use std::net::IpAddr;
use std::path::Path;

use fleet_common::id::PeerName;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;

use crate::credentials::Credentials;
use crate::identity::{Identity, Role, serial, uri};
use crate::{files, sha256};

/// The authority's certificate, in its folder.
const CERTIFICATE: &str = "authority.pem";
/// The authority's key, in its folder.
const KEY: &str = "authority.key";
/// How long an authority lasts: longer than a fleet's machines.
const AUTHORITY_YEARS: u64 = 20;
const YEAR: u64 = 365 * 24 * 3600;
/// Certificates begin to count a little before they are made: clocks differ.
pub const CLOCKS_DIFFER: u64 = 300;

/// Why there is no authority, or no certificate from it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is one already.
    #[error("{} holds an authority already; remove it only if no certificate of it is to count any more", .0.display())]
    Exists(std::path::PathBuf),
    /// What is there is no authority.
    #[error("{} holds no usable authority ({why}); restore it from a backup, or make a new one with `fleet certs init`", dir.display())]
    Unusable {
        /// The folder.
        dir: std::path::PathBuf,
        /// Why not.
        why: String,
    },
    /// A request for a certificate is not one.
    #[error("the request for a certificate cannot be used: {0}")]
    Request(String),
    /// The library refuses.
    #[error("a certificate cannot be made: {0}")]
    Library(#[from] rcgen::Error),
}

/// What signs certificates. Its key never leaves it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// A key that a certificate is asked for, with the proof that the asker has its private half.
pub struct KeyRequest(CertificateSigningRequestParams);

impl KeyRequest {
    /// Reads and checks a PKCS #10 request. What else it asks for is passed over: names and roles are not the asker's to
    /// choose.
    ///
    /// # Errors
    /// It is none, or the proof is wrong.
    pub fn read(der: &[u8]) -> Result<Self, AuthorityError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
        request.map(Self).map_err(|e| AuthorityError::Request(e.to_string()))
    }

    /// SHA-256 of the key.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.0.public_key.subject_public_key_info())
    }
}

/// A certificate that was made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Whom it is for.
    pub identity: Identity,
}

/// When a certificate counts, seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: u64,
    /// To.
    pub not_after: u64,
}

impl Validity {
    /// From `now`, and a little before it, for so many seconds.
    pub fn from(now: u64, seconds: u64) -> Self {
        Self { not_before: now.saturating_sub(CLOCKS_DIFFER.min(seconds)), not_after: now.saturating_add(seconds) }
    }
}

fn moment(unix: u64) -> OffsetDateTime {
    i64::try_from(unix)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| AuthorityError::Request("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

/// A positive number of 16 bytes without zeros in front.
fn new_serial() -> Result<[u8; 16], AuthorityError> {
    let mut bytes = random::<16>()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(bytes)
}

impl Authority {
    /// Makes one from `now` on, and keeps it in `dir`.
    ///
    /// # Errors
    /// There is one already, or it cannot be kept.
    pub fn create(dir: &Path, now: u64) -> Result<Self, AuthorityError> {
        let (certificate_file, key_file) = (dir.join(CERTIFICATE), dir.join(KEY));
        if certificate_file.exists() || key_file.exists() {
            return Err(AuthorityError::Exists(dir.to_owned()));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Two fleets' authorities have two names, so that a certificate of the other is told at once.
        let name = format!("NetScore Fleet authority {}", serial(&random::<4>()?));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&new_serial()?));
        params.not_before = moment(now.saturating_sub(CLOCKS_DIFFER));
        params.not_after = moment(now.saturating_add(AUTHORITY_YEARS * YEAR));
        let certificate = params.self_signed(&key)?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { verb: "write", path, source }
        };
        files::make_private_dir(dir).map_err(failed(dir))?;
        files::write_private(&key_file, key.serialize_pem().as_bytes()).map_err(failed(&key_file))?;
        files::write_private(&certificate_file, certificate.pem().as_bytes()).map_err(failed(&certificate_file))?;
        Ok(Self { certificate: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// Whether a folder holds an authority.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CERTIFICATE).exists()
    }

    /// The one that is kept in `dir`.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|source| AuthorityError::File { verb: "read", path, source })
        };
        let unusable = |why: String| AuthorityError::Unusable { dir: dir.to_owned(), why };
        let (certificate, key) = (read(CERTIFICATE)?, read(KEY)?);
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let key = KeyPair::from_pem(&key).map_err(|e| unusable(e.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| unusable(e.to_string()))?;
        Ok(Self { issuer, certificate })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of its certificate: what tokens pin.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    /// Signs a certificate for whoever has the key.
    ///
    /// # Errors
    /// The library refuses.
    pub fn issue(
        &self,
        role: Role,
        name: &PeerName,
        key: &KeyRequest,
        validity: Validity,
    ) -> Result<Issued, AuthorityError> {
        self.sign(role, name, &[], &key.0.public_key, validity)
    }

    /// A key and a certificate for somebody who is given both.
    ///
    /// # Errors
    /// The library refuses.
    pub fn issue_with_key(
        &self,
        role: Role,
        name: &PeerName,
        addresses: &[String],
        validity: Validity,
    ) -> Result<(Credentials, Identity), AuthorityError> {
        let key = KeyPair::generate()?;
        let issued = self.sign(role, name, addresses, &key, validity)?;
        let credentials = Credentials::new(issued.certificate, &key, self.certificate.clone(), None);
        Ok((credentials, issued.identity))
    }

    fn sign(
        &self,
        role: Role,
        name: &PeerName,
        addresses: &[String],
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{role} {name}"));
        params.subject_alt_names = vec![SanType::URI(uri(role, name).try_into()?)];
        for address in addresses {
            params.subject_alt_names.push(match address.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(address.as_str().try_into()?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A machine's certificate must not serve as the coordinator's, nor the other way round.
        params.extended_key_usages = vec![match role {
            Role::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Agent | Role::Operator | Role::Viewer => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&new_serial()?));
        params.not_before = moment(validity.not_before);
        params.not_after = moment(validity.not_after);
        let certificate = params.signed_by(key, &self.issuer)?.der().clone();
        let identity = Identity::of(&certificate).map_err(|e| AuthorityError::Request(e.to_string()))?;
        Ok(Issued { certificate, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_what_it_was_made_for_and_survives_the_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = Authority::create(dir.path(), 1_800_000_000).expect("made");
        let opened = Authority::open(dir.path()).expect("opened");
        assert_eq!(made.fingerprint(), opened.fingerprint());
        assert!(matches!(Authority::create(dir.path(), 1), Err(AuthorityError::Exists(_))));
        assert!(!files::is_open_to_others(&dir.path().join(KEY)));
        let name: PeerName = "box-1".parse().expect("a name");
        let validity = Validity::from(1_800_000_000, 3000);
        let (_, identity) = opened.issue_with_key(Role::Agent, &name, &[], validity).expect("issued");
        assert_eq!((identity.role, &identity.name), (Role::Agent, &name));
        assert_eq!((identity.not_before, identity.not_after), (1_799_999_700, 1_800_003_000));
        assert_eq!(identity.renew_at(), 1_799_999_700 + 2200);
        assert_eq!(identity.serial.len(), 32);
    }

    #[test]
    fn only_the_key_of_a_request_counts_and_its_proof_is_checked() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::create(dir.path(), 1_800_000_000).expect("made");
        let key = KeyPair::generate().expect("a key");
        // It asks to be an authority and an operator.
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let boss = uri(Role::Operator, &"boss".parse().expect("a name"));
        params.subject_alt_names = vec![SanType::URI(boss.try_into().expect("text"))];
        let der = params.serialize_request(&key).expect("a request").der().to_vec();
        let request = KeyRequest::read(&der).expect("read");
        let name: PeerName = "a".parse().expect("a name");
        let issued = authority.issue(Role::Agent, &name, &request, Validity::from(1_800_000_000, 60)).expect("issued");
        assert_eq!((issued.identity.role, issued.identity.name), (Role::Agent, name));
        let (_, x509) = x509_parser::parse_x509_certificate(&issued.certificate).expect("read");
        assert!(!x509.is_ca());
        let mut forged = der;
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(KeyRequest::read(&forged).is_err());
        assert!(KeyRequest::read(b"").is_err());
    }
}
