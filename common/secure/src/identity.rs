//! Who a certificate is for: a role and a name, as a URI among its alternative names.
//!
//! `netscore-fleet://ROLE/NAME` rather than an extension of our own: every tool that shows certificates shows it
//! (`openssl x509 -text`), and no object identifier has to be registered for it.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use fleet_common::id::PeerName;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const SCHEME: &str = "netscore-fleet://";

/// What the bearer of a certificate may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A machine that runs trials: its own leases, and nothing else.
    Agent,
    /// A person who may do everything.
    Operator,
    /// A person who may look at everything and change nothing.
    Viewer,
    /// The coordinator itself.
    Coordinator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Operator, Self::Viewer, Self::Coordinator];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Coordinator => "coordinator",
        }
    }

    /// Whether somebody can join in it; there is one coordinator, and it has the authority.
    pub const fn can_join(self) -> bool {
        !matches!(self, Self::Coordinator)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|r| r.can_join() && r.name() == text);
        role.ok_or_else(|| {
            format!(
                "expected a role (agent, operator or viewer), found \"{}\"",
                text.chars().take(80).collect::<String>()
            )
        })
    }
}

/// The bearer of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What it may be.
    pub role: Role,
    /// Who.
    pub name: PeerName,
    /// The certificate's serial number, hexadecimal.
    pub serial: String,
    /// When it begins to count, seconds since 1970.
    pub not_before: u64,
    /// When it ends, seconds since 1970.
    pub not_after: u64,
}

/// Why a certificate does not say who its bearer is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate cannot be used: {0}")]
pub struct NotAnIdentity(String);

/// The URI that names a role and a name.
pub fn uri(role: Role, name: &PeerName) -> String {
    format!("{SCHEME}{role}/{name}")
}

impl Identity {
    /// What a certificate says. Whether it is signed, and counts now, is for whoever verified it.
    ///
    /// # Errors
    /// It cannot be read, or names no identity or several.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, NotAnIdentity> {
        let wrong = |what: &str| NotAnIdentity(what.to_owned());
        let (_, x509) = X509Certificate::from_der(certificate).map_err(|e| wrong(&format!("it is damaged ({e})")))?;
        let names = x509.subject_alternative_name().map_err(|e| wrong(&e.to_string()))?;
        let names = names.map(|n| n.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(|n| match n {
            GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(wrong(&format!("expected one name {SCHEME}ROLE/NAME in it")));
        };
        let (role, name) = uri.split_once('/').ok_or_else(|| wrong("its name lacks a role"))?;
        let role = Role::ALL.into_iter().find(|r| r.name() == role).ok_or_else(|| wrong("its role is not known"))?;
        let name = name.parse().map_err(|e: fleet_common::id::IdError| wrong(&e.to_string()))?;
        let time = |t: i64| u64::try_from(t).unwrap_or(0);
        Ok(Self {
            role,
            name,
            serial: serial(x509.raw_serial()),
            not_before: time(x509.validity().not_before.timestamp()),
            not_after: time(x509.validity().not_after.timestamp()),
        })
    }

    /// When it should be renewed: after two thirds of its time, so that an outage as long as the last third costs nothing.
    pub fn renew_at(&self) -> u64 {
        self.not_before + (self.not_after.saturating_sub(self.not_before)) / 3 * 2
    }
}

/// SHA-256 of the key that a certificate is for.
pub(crate) fn key_of(certificate: &CertificateDer<'_>) -> Result<[u8; 32], NotAnIdentity> {
    let read = X509Certificate::from_der(certificate);
    let (_, x509) = read.map_err(|e| NotAnIdentity(format!("it is damaged ({e})")))?;
    Ok(crate::sha256(x509.public_key().raw))
}

/// Hosts and addresses that a certificate is for.
pub(crate) fn addresses_of(certificate: &CertificateDer<'_>) -> Result<Vec<String>, NotAnIdentity> {
    let damaged = |e: &dyn fmt::Display| NotAnIdentity(format!("it is damaged ({e})"));
    let (_, x509) = X509Certificate::from_der(certificate).map_err(|e| damaged(&e))?;
    let names = x509.subject_alternative_name().map_err(|e| damaged(&e))?;
    let names = names.map(|n| n.value.general_names.as_slice()).unwrap_or_default();
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(host) => Some((*host).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
        },
        _ => None,
    };
    Ok(names.iter().filter_map(address).collect())
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// A serial number as people see it: without the zeros that DER may put in front.
pub(crate) fn serial(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    HEXLOWER.encode(&bytes[zeros.min(bytes.len().saturating_sub(1))..])
}
