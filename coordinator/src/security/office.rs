//! Where certificates are given out and taken back, by `fleet certs` in the state folder and by a running coordinator.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use fleet_common::id::PeerName;
use fleet_secure::authority::{Authority, AuthorityError, Issued, KeyRequest, Validity};
use fleet_secure::credentials::{Credentials, CredentialsError};
use fleet_secure::files;
use fleet_secure::identity::{Identity, Role};
use fleet_secure::server::Refused;
use fleet_secure::token::{Secret, TokenError};
use subtle::ConstantTimeEq as _;

use super::ledger::{Entry, Issue, Ledger, LedgerError, Token, hex};

/// The coordinator's own certificate, in the authority's folder.
const COORDINATOR: &str = "coordinator.pem";
/// The address under which machines reach the coordinator, in the authority's folder.
const ADDRESS: &str = "address";
/// How long the coordinator's own certificate lasts; it renews it by itself.
const COORDINATOR_SECONDS: u64 = 90 * 24 * 3600;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OfficeError {
    /// The authority cannot.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The ledger cannot.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The coordinator's own certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No random numbers.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The asker may not.
    #[error("{why}")]
    Refused {
        /// For the count.
        refused: Refused,
        /// In words.
        why: String,
    },
    /// There is nothing of that name.
    #[error("{0}")]
    Unknown(String),
}

fn refused(refused: Refused, why: impl Into<String>) -> OfficeError {
    OfficeError::Refused { refused, why: why.into() }
}

/// A certificate as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// What it says.
    pub issue: Issue,
    /// It was taken back.
    pub revoked: bool,
}

/// What was taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Certificates, by serial number.
    pub serials: Vec<String>,
    /// A token.
    pub token: bool,
}

/// The authority, and the list of what it gave out.
#[derive(Debug)]
pub struct Office {
    dir: PathBuf,
    authority: Authority,
    ledger: Ledger,
    /// How long certificates last, seconds.
    validity: u64,
}

impl Office {
    /// The folder of the authority in a state folder.
    pub fn dir(state: &Path) -> PathBuf {
        state.join("authority")
    }

    /// Whether there is one in a state folder.
    pub fn is_in(state: &Path) -> bool {
        Authority::is_in(&Self::dir(state))
    }

    /// Opens the one in a state folder; its certificates last `validity` seconds.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn open(state: &Path, validity: u64) -> Result<Self, OfficeError> {
        let dir = Self::dir(state);
        Ok(Self { authority: Authority::open(&dir)?, ledger: Ledger::open(&dir)?, validity, dir })
    }

    /// Makes an authority, and the coordinator's own certificate for `names`.
    ///
    /// # Errors
    /// There is one already, or the folder cannot be written.
    pub fn create(state: &Path, names: &[String], address: &str, validity: u64, now: u64) -> Result<Self, OfficeError> {
        let dir = Self::dir(state);
        let authority = Authority::create(&dir, now)?;
        let mut office = Self { authority, ledger: Ledger::open(&dir)?, validity, dir };
        office.renew_own(names, now)?;
        let path = office.dir.join(ADDRESS);
        files::write_private(&path, format!("{address}\n").as_bytes()).map_err(|source| AuthorityError::File {
            verb: "write",
            path,
            source,
        })?;
        Ok(office)
    }

    /// The address that was given when the authority was made.
    pub fn address(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.join(ADDRESS)).ok().map(|a| a.trim().to_owned())
    }

    /// SHA-256 of the authority's certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.authority.fingerprint()
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &[u8] {
        self.authority.certificate()
    }

    /// The file of the coordinator's own certificate.
    pub fn own_file(&self) -> PathBuf {
        self.dir.join(COORDINATOR)
    }

    /// The coordinator's own certificate.
    ///
    /// # Errors
    /// It is not there.
    pub fn own(&self) -> Result<Credentials, OfficeError> {
        Ok(Credentials::load(&self.own_file())?)
    }

    /// Gives the coordinator a new certificate of its own, for these names.
    ///
    /// # Errors
    /// It cannot be made or kept.
    pub fn renew_own(&mut self, names: &[String], now: u64) -> Result<Identity, OfficeError> {
        let name: PeerName = "coordinator".parse().map_err(|e| OfficeError::Unknown(format!("{e}")))?;
        let validity = Validity::from(now, COORDINATOR_SECONDS);
        let (own, identity) = self.authority.issue_with_key(Role::Coordinator, &name, names, validity)?;
        self.note(Issue::of(&identity, own.key_fingerprint()?, None))?;
        own.save(&self.own_file())?;
        Ok(identity)
    }

    /// When the coordinator's own certificate should be renewed; never, where it cannot be read.
    pub(super) fn own_renew_at(&self) -> u64 {
        let own = self.ledger.known().issued.values().filter(|i| i.role == Role::Coordinator);
        let latest = own.max_by_key(|i| i.not_after);
        latest.map_or(u64::MAX, |i| i.not_before + i.not_after.saturating_sub(i.not_before) / 3 * 2)
    }

    fn note(&mut self, issue: Issue) -> Result<(), OfficeError> {
        self.ledger.change(|_| Ok((vec![Entry::Issued(issue)], ())))
    }

    /// Serial numbers that no longer count.
    pub fn denied(&self) -> HashSet<String> {
        self.ledger.known().revoked.clone()
    }

    /// Takes in what others have changed; whether there was something.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn refresh(&mut self) -> Result<bool, OfficeError> {
        Ok(self.ledger.refresh()?)
    }

    /// Makes a token that is good for so many certificates.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn token(&mut self, role: Role, uses: u32, seconds: u64, now: u64) -> Result<(Secret, Token), OfficeError> {
        let secret = Secret::random()?;
        let not_after = now.saturating_add(seconds);
        let token = Token { id: secret.id(), hash: hex(&secret.hash()), role, uses, not_after };
        self.ledger.change(|_| Ok::<_, OfficeError>((vec![Entry::Token(token.clone())], ())))?;
        Ok((secret, token))
    }

    /// Exchanges a token for a certificate, whose use is durable before anybody is told.
    ///
    /// # Errors
    /// The token does not open anything now, or the name is taken.
    pub fn join(&mut self, secret: &[u8], name: &PeerName, key: &KeyRequest, now: u64) -> Result<Issued, OfficeError> {
        let (authority, seconds) = (&self.authority, self.validity);
        let hash = hex(&Secret::from_bytes(secret).map(|s| s.hash()).unwrap_or_default());
        let print = hex(&key.fingerprint());
        self.ledger.change(|known| {
            // All of them are compared, and each in a time that does not depend on where it differs.
            let mut found = None;
            for token in known.tokens.values() {
                if bool::from(token.hash.as_bytes().ct_eq(hash.as_bytes())) {
                    found = Some(token);
                }
            }
            let token = found.filter(|t| !known.is_withdrawn(&t.id)).ok_or_else(|| {
                refused(Refused::TokenUnknown, "this token was never made here, or was withdrawn; ask for a new one")
            })?;
            if token.not_after <= now {
                return Err(refused(Refused::TokenExpired, "this token's time is over; ask for a new one"));
            }
            // The answer to the same question got lost: the same key, under the same token.
            let again = known.issued.values().find(|i| {
                i.token.as_deref() == Some(token.id.as_str())
                    && i.key == print
                    && i.name == *name
                    && !known.revoked.contains(&i.serial)
            });
            if again.is_none() && known.uses_left(token) == 0 {
                return Err(refused(
                    Refused::TokenUsedUp,
                    "this token was used as often as it may be; ask for a new one",
                ));
            }
            if let Some(taken) = known.current(token.role, name, now).find(|i| i.key != print) {
                let why = format!(
                    "there is a {} called {name} already (certificate {}); join under another name, or have the old \
                     certificate revoked first: fleet certs revoke {name}",
                    token.role, taken.serial
                );
                return Err(refused(Refused::NameTaken, why));
            }
            let issued = authority.issue(token.role, name, key, Validity::from(now, seconds))?;
            let token = again.is_none().then(|| token.id.clone());
            let entry = Entry::Issued(Issue::of(&issued.identity, key.fingerprint(), token));
            Ok((vec![entry], issued))
        })
    }

    /// A new certificate for whoever bears one that counts.
    ///
    /// # Errors
    /// It was revoked meanwhile.
    pub fn renew(&mut self, bearer: &Identity, key: &KeyRequest, now: u64) -> Result<Issued, OfficeError> {
        let (authority, seconds) = (&self.authority, self.validity);
        self.ledger.change(|known| {
            if known.revoked.contains(&bearer.serial) {
                return Err(refused(Refused::Revoked, "the certificate was revoked"));
            }
            let issued = authority.issue(bearer.role, &bearer.name, key, Validity::from(now, seconds))?;
            let entry = Entry::Issued(Issue::of(&issued.identity, key.fingerprint(), None));
            Ok((vec![entry], issued))
        })
    }

    /// A certificate with its key, for somebody who is handed both.
    ///
    /// # Errors
    /// The name is taken.
    pub fn issue(&mut self, role: Role, name: &PeerName, now: u64) -> Result<(Credentials, Identity), OfficeError> {
        let (authority, seconds) = (&self.authority, self.validity);
        self.ledger.change(|known| {
            if let Some(taken) = known.current(role, name, now).next() {
                let why = format!(
                    "there is a {role} called {name} already (certificate {}); take another name, or revoke it first: \
                     fleet certs revoke {name}",
                    taken.serial
                );
                return Err(refused(Refused::NameTaken, why));
            }
            let (credentials, identity) = authority.issue_with_key(role, name, &[], Validity::from(now, seconds))?;
            let entry = Entry::Issued(Issue::of(&identity, credentials.key_fingerprint()?, None));
            Ok((vec![entry], (credentials, identity)))
        })
    }

    /// Takes back the certificates of a name that count at `now`, the one with a serial number, or a token by its id.
    ///
    /// # Errors
    /// There is none.
    pub fn revoke(&mut self, what: &str, now: u64) -> Result<Revoked, OfficeError> {
        self.ledger.change(|known| {
            let named = |i: &&Issue| i.name.as_str() == what && i.role.can_join();
            let serials: Vec<String> = known
                .issued
                .values()
                .filter(|i| i.serial == what || named(i))
                .filter(|i| i.not_after > now)
                .map(|i| i.serial.clone())
                .collect();
            let token = known.tokens.contains_key(what);
            if serials.is_empty() && !token {
                let mut names: Vec<&str> = known.issued.values().map(|i| i.name.as_str()).collect();
                names.dedup();
                let hint = fleet_common::spec::nearest(what, names);
                let hint = hint.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"));
                let what: String = what.chars().take(80).collect();
                return Err(OfficeError::Unknown(format!(
                    "no certificate that still counts and no token is called \"{what}\"{hint}; `fleet certs list` shows them"
                )));
            }
            let new = serials.iter().filter(|s| !known.revoked.contains(*s));
            let mut entries: Vec<Entry> = new.map(|s| Entry::Revoked { serial: s.clone(), at: now }).collect();
            if token {
                entries.push(Entry::Withdrawn { token: what.to_owned(), at: now });
            }
            Ok((entries, Revoked { serials, token }))
        })
    }

    /// Certificates that were given out and have not ended, those that end first at the end of each name.
    pub fn certificates(&self, now: u64) -> Vec<Certificate> {
        let known = self.ledger.known();
        let mut all: Vec<Certificate> = known
            .issued
            .values()
            .filter(|i| i.not_after > now)
            .map(|i| Certificate { issue: i.clone(), revoked: known.revoked.contains(&i.serial) })
            .collect();
        all.sort_by(|a, b| {
            let key = |c: &Certificate| (c.issue.role, c.issue.name.clone(), std::cmp::Reverse(c.issue.not_after));
            key(a).cmp(&key(b))
        });
        all
    }

    /// Tokens that still open something, with how often.
    pub fn tokens(&self, now: u64) -> Vec<(Token, u32)> {
        let known = self.ledger.known();
        let open = known.tokens.values().filter(|t| t.not_after > now && !known.is_withdrawn(&t.id));
        open.map(|t| (t.clone(), known.uses_left(t))).filter(|(_, left)| *left > 0).collect()
    }

    /// How many certificates count at `now`, by role and name.
    pub fn bearers(&self, now: u64) -> HashMap<(Role, PeerName), usize> {
        let mut bearers = HashMap::new();
        for certificate in self.certificates(now).into_iter().filter(|c| !c.revoked) {
            *bearers.entry((certificate.issue.role, certificate.issue.name)).or_default() += 1;
        }
        bearers
    }
}

/// Names and addresses under which this machine is reached, as far as it knows them: itself, its name, and the address
/// that it has towards others. Nothing is sent.
pub fn address_hint(host: &str) -> (Vec<String>, String) {
    let outward = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Of the range for documentation: it only asks the routing table.
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    let outward = outward.ok().map(|a| a.ip()).filter(|ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified());
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')) {
        names.push(host.to_owned());
    }
    let best = outward.map_or_else(|| host.to_owned(), |ip| ip.to_string());
    names.extend(outward.map(|ip| ip.to_string()));
    (names, if best.is_empty() { "127.0.0.1".to_owned() } else { best })
}

impl From<fleet_secure::identity::NotAnIdentity> for OfficeError {
    fn from(error: fleet_secure::identity::NotAnIdentity) -> Self {
        Self::Unknown(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct Desk {
        office: Office,
        _dir: tempfile::TempDir,
    }

    fn desk() -> Desk {
        let dir = tempfile::tempdir().expect("a folder");
        let office = Office::create(dir.path(), &["localhost".to_owned()], "https://h:1", 3600, NOW).expect("made");
        Desk { office, _dir: dir }
    }

    fn request() -> KeyRequest {
        KeyRequest::read(&fleet_secure::join::new_request().expect("a request").1).expect("read")
    }

    fn name(text: &str) -> PeerName {
        text.parse().expect("a name")
    }

    fn why(outcome: Result<Issued, OfficeError>) -> Refused {
        match outcome {
            Err(OfficeError::Refused { refused, .. }) => refused,
            other => panic!("expected a refusal, found {other:?}"),
        }
    }

    #[test]
    fn a_token_is_good_for_its_uses_and_its_time_and_a_lost_answer_costs_none() {
        let Desk { mut office, _dir } = desk();
        let (secret, token) = office.token(Role::Agent, 2, 100, NOW).expect("made");
        let bytes = secret.as_bytes();
        assert!(!format!("{token:?}").contains(&hex(bytes)), "the secret is not kept");
        let first = request();
        let issued = office.join(bytes, &name("a"), &first, NOW).expect("joined");
        assert_eq!((issued.identity.role, issued.identity.name.as_str()), (Role::Agent, "a"));
        office.join(bytes, &name("a"), &first, NOW + 1).expect("the same question again");
        assert_eq!(why(office.join(bytes, &name("a"), &request(), NOW)), Refused::NameTaken);
        office.join(bytes, &name("b"), &request(), NOW).expect("the second use");
        assert_eq!(why(office.join(bytes, &name("c"), &request(), NOW)), Refused::TokenUsedUp);
        assert_eq!(why(office.join(&[0; 20], &name("c"), &request(), NOW)), Refused::TokenUnknown);
        assert_eq!(why(office.join(b"short", &name("c"), &request(), NOW)), Refused::TokenUnknown);
        let (late, _) = office.token(Role::Viewer, 1, 100, NOW).expect("made");
        assert_eq!(why(office.join(late.as_bytes(), &name("c"), &request(), NOW + 100)), Refused::TokenExpired);
    }

    #[test]
    fn a_restart_does_not_revive_a_token_and_what_was_taken_back_stays_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut office = Office::create(dir.path(), &[], "https://h:1", 3600, NOW).expect("made");
        let (secret, _) = office.token(Role::Agent, 1, 100, NOW).expect("made");
        let issued = office.join(secret.as_bytes(), &name("a"), &request(), NOW).expect("joined");
        let (unused, withdrawn) = office.token(Role::Operator, 1, 100, NOW).expect("made");
        assert!(office.revoke(&withdrawn.id, NOW).expect("withdrawn").token);
        let serials = office.revoke("a", NOW).expect("revoked").serials;
        assert_eq!(serials, std::slice::from_ref(&issued.identity.serial));
        drop(office);
        let mut office = Office::open(dir.path(), 3600).expect("opened");
        assert!(office.denied().contains(&issued.identity.serial));
        assert_eq!(why(office.renew(&issued.identity, &request(), NOW)), Refused::Revoked);
        assert_eq!(why(office.join(secret.as_bytes(), &name("b"), &request(), NOW)), Refused::TokenUsedUp);
        assert_eq!(why(office.join(unused.as_bytes(), &name("b"), &request(), NOW)), Refused::TokenUnknown);
        let (again, _) = office.token(Role::Agent, 1, 100, NOW).expect("made");
        office.join(again.as_bytes(), &name("a"), &request(), NOW).expect("the name is free again");
        let error = office.revoke("A", NOW).expect_err("unknown").to_string();
        assert!(error.contains("did you mean \"a\"?"), "{error}");
    }

    #[test]
    fn the_coordinators_own_certificate_is_not_revoked_by_chance() {
        let Desk { mut office, _dir } = desk();
        assert!(matches!(office.revoke("coordinator", NOW), Err(OfficeError::Unknown(_))));
        let own = office.own().expect("there").identity().expect("somebody");
        assert_eq!(own.role, Role::Coordinator);
        assert_eq!(office.certificates(NOW).len(), 1);
    }

    #[test]
    fn a_name_has_one_key_at_a_time_and_renewal_keeps_it() {
        let Desk { mut office, _dir } = desk();
        let (credentials, identity) = office.issue(Role::Viewer, &name("ann"), NOW).expect("issued");
        assert_eq!(credentials.identity().expect("somebody"), identity);
        assert!(office.issue(Role::Viewer, &name("ann"), NOW).is_err());
        assert!(office.issue(Role::Operator, &name("ann"), NOW).is_ok(), "another role is another bearer");
        let renewed = office.renew(&identity, &request(), NOW + 10).expect("renewed");
        assert_eq!((renewed.identity.role, &renewed.identity.name), (Role::Viewer, &identity.name));
        assert_eq!(office.bearers(NOW)[&(Role::Viewer, name("ann"))], 2, "the old one counts until it ends");
        assert_eq!(fleet_secure::sha256(office.authority()), office.fingerprint());
    }
}
