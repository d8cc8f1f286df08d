//! A program's own certificate and key, the authority that it trusts, and where its coordinator is: one file, so that
//! they are replaced together.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};

use crate::identity::{self, Identity, NotAnIdentity};
use crate::{files, provider};

/// How a line begins that names the coordinator.
const COORDINATOR: &str = "coordinator: ";
/// Files that are larger are something else.
const MAX_FILE: u64 = 1 << 20;

/// A certificate, its key, and the authority behind it.
#[derive(Clone)]
pub struct Credentials {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    authority: CertificateDer<'static>,
    coordinator: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = Identity::of(&self.certificate).map(|i| i.to_string());
        f.debug_struct("Credentials").field("who", &who).field("coordinator", &self.coordinator).finish_non_exhaustive()
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} is no certificate with its key ({why}); join again with a new token", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The certificate names nobody.
    #[error(transparent)]
    Nobody(#[from] NotAnIdentity),
    /// The library refuses.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl Credentials {
    /// Of these parts.
    pub fn new(
        certificate: CertificateDer<'static>,
        key: &KeyPair,
        authority: CertificateDer<'static>,
        coordinator: Option<String>,
    ) -> Self {
        Self { certificate, key: key.serialize_der(), authority, coordinator }
    }

    /// The same for a coordinator at this address.
    #[must_use]
    pub fn for_coordinator(mut self, address: &str) -> Self {
        self.coordinator = Some(address.to_owned());
        self
    }

    /// Reads a file that [`Self::save`] has written.
    ///
    /// # Errors
    /// It is not there, or something else.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::File { verb: "read", path: path.to_owned(), source };
        let damaged = |why: &str| CredentialsError::Damaged { path: path.to_owned(), why: why.to_owned() };
        if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
            return Err(damaged("it is too large"));
        }
        if files::is_open_to_others(path) {
            tracing::warn!(file = %path.display(), "others on this machine can read this key; chmod 600 it");
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            certificates.push(certificate.map_err(|e| damaged(&e.to_string()))?);
        }
        let Ok([certificate, authority]) = <[_; 2]>::try_from(certificates) else {
            return Err(damaged("expected two certificates in it: its own and its authority's"));
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|e| damaged(&format!("its key: {e}")))?;
        let coordinator = text.lines().find_map(|l| l.strip_prefix(COORDINATOR)).map(|a| a.trim().to_owned());
        Ok(Self { certificate, key: key.secret_pkcs8_der().to_vec(), authority, coordinator })
    }

    /// Writes all of it into one file for the owner alone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn save(&self, path: &Path) -> Result<(), CredentialsError> {
        let failed = |source| CredentialsError::File { verb: "write", path: path.to_owned(), source };
        let mut text = String::new();
        if let Ok(who) = Identity::of(&self.certificate) {
            text += &format!("{who}, serial number {}\n", who.serial);
        }
        if let Some(coordinator) = &self.coordinator {
            text += &format!("{COORDINATOR}{coordinator}\n");
        }
        text += &block("CERTIFICATE", &self.certificate);
        text += &block("PRIVATE KEY", &self.key);
        text += &block("CERTIFICATE", &self.authority);
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            files::make_private_dir(dir).map_err(failed)?;
        }
        files::write_private(path, text.as_bytes()).map_err(failed)
    }

    /// Whom the certificate is for.
    ///
    /// # Errors
    /// It names nobody.
    pub fn identity(&self) -> Result<Identity, CredentialsError> {
        Ok(Identity::of(&self.certificate)?)
    }

    /// SHA-256 of the key.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn key_fingerprint(&self) -> Result<[u8; 32], NotAnIdentity> {
        identity::key_of(&self.certificate)
    }

    /// Hosts and addresses that the certificate is for.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn addresses(&self) -> Result<Vec<String>, NotAnIdentity> {
        identity::addresses_of(&self.certificate)
    }

    /// Where the coordinator is.
    pub fn coordinator(&self) -> Option<&str> {
        self.coordinator.as_deref()
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    /// Trusts the authority alone, and shows the certificate.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, CredentialsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection shows the certificate as it is now.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// For a server, which shows the authority's certificate too: who joins knows only its fingerprint.
    pub(crate) fn certified_key(&self) -> Result<Arc<CertifiedKey>, CredentialsError> {
        let chain = vec![self.certificate.clone(), self.authority.clone()];
        let key = CertifiedKey::from_der(chain, self.private_key(), &provider())?;
        key.keys_match()?;
        Ok(Arc::new(key))
    }
}

/// A PEM block.
fn block(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|i| &text[i..text.len().min(i + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, Validity};
    use crate::identity::Role;

    #[test]
    fn one_file_holds_all_of_it_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::create(&dir.path().join("authority"), 1_800_000_000).expect("made");
        let validity = Validity::from(1_800_000_000, 60);
        let (credentials, identity) =
            authority.issue_with_key(Role::Agent, &"a".parse().expect("a name"), &[], validity).expect("issued");
        let path = dir.path().join("x/identity.pem");
        credentials.for_coordinator("https://h:1").save(&path).expect("saved");
        assert!(!files::is_open_to_others(&path));
        let loaded = Credentials::load(&path).expect("loaded");
        assert_eq!(loaded.identity().expect("somebody"), identity);
        assert_eq!((loaded.coordinator(), loaded.authority()), (Some("https://h:1"), authority.certificate()));
        loaded.client_config().expect("usable");
        loaded.certified_key().expect("usable");
        assert!(!format!("{loaded:?}").contains("key"));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").expect("written");
        let error = Credentials::load(&path).expect_err("damaged").to_string();
        assert!(error.contains("join again"), "{error}");
    }
}
