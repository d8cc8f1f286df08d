//! What was given out and taken back: one JSON object per line, appended and synced.
//!
//! `fleet certs` and a running coordinator write to the same file, each under a lock on it; whoever reads takes in what
//! has been appended since. So a revocation that is typed beside a running coordinator reaches it, and one that is typed
//! while none runs is there when it starts.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use fleet_common::id::PeerName;
use fleet_secure::identity::{Identity, Role};
use serde::{Deserialize, Serialize};

/// A certificate that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// Its serial number.
    pub serial: String,
    /// For which role.
    #[serde(with = "role")]
    pub role: Role,
    /// For whom.
    pub name: PeerName,
    /// From when, seconds since 1970.
    pub not_before: u64,
    /// Until when.
    pub not_after: u64,
    /// SHA-256 of its key.
    pub key: String,
    /// The token that it was exchanged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Names it.
    pub id: String,
    /// SHA-256 of the secret.
    pub hash: String,
    /// What it lets in.
    #[serde(with = "role")]
    pub role: Role,
    /// How many certificates it is good for.
    pub uses: u32,
    /// Until when, seconds since 1970.
    pub not_after: u64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    Issued(Issue),
    Token(Token),
    Revoked { serial: String, at: u64 },
    Withdrawn { token: String, at: u64 },
}

mod role {
    use fleet_secure::identity::Role;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(role.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Role, D::Error> {
        let text = String::deserialize(deserializer)?;
        Role::ALL.into_iter().find(|r| r.name() == text).ok_or_else(|| D::Error::custom("a role that is not known"))
    }
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line is not one of ours. What it took back would count again if it were skipped.
    #[error("{}, line {line} cannot be read ({why}); restore the file from a backup, or repair that line", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// Why not.
        why: String,
    },
}

/// What the lines say, folded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) issued: BTreeMap<String, Issue>,
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) revoked: HashSet<String>,
    withdrawn: HashSet<String>,
    used: BTreeMap<String, u32>,
}

impl Known {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Issued(issue) => {
                if let Some(token) = &issue.token {
                    *self.used.entry(token.clone()).or_default() += 1;
                }
                self.issued.insert(issue.serial.clone(), issue);
            }
            Entry::Token(token) => drop(self.tokens.insert(token.id.clone(), token)),
            Entry::Revoked { serial, .. } => drop(self.revoked.insert(serial)),
            Entry::Withdrawn { token, .. } => drop(self.withdrawn.insert(token)),
        }
    }

    pub(super) fn is_withdrawn(&self, token: &str) -> bool {
        self.withdrawn.contains(token)
    }

    /// How often a token may still be used.
    pub(super) fn uses_left(&self, token: &Token) -> u32 {
        token.uses.saturating_sub(self.used.get(&token.id).copied().unwrap_or(0))
    }

    /// Certificates that count at `now`, of this bearer.
    pub(super) fn current<'a>(&'a self, role: Role, name: &'a PeerName, now: u64) -> impl Iterator<Item = &'a Issue> {
        self.issued.values().filter(move |i| {
            i.role == role && i.name == *name && i.not_after > now && !self.revoked.contains(&i.serial)
        })
    }
}

/// The file, and what is known of it.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    known: Known,
    /// Bytes and lines that are in `known`.
    read: u64,
    lines: usize,
}

impl Ledger {
    /// Opens or begins the one in this folder.
    pub(super) fn open(dir: &Path) -> Result<Self, LedgerError> {
        let mut ledger = Self { path: dir.join("ledger.jsonl"), known: Known::default(), read: 0, lines: 0 };
        ledger.locked(|_, _| Ok(()))?;
        Ok(ledger)
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(io::Error) -> LedgerError {
        let path = self.path.clone();
        move |source| LedgerError::File { verb, path, source }
    }

    /// Takes in what others have appended; whether there was something.
    pub(super) fn refresh(&mut self) -> Result<bool, LedgerError> {
        let length = std::fs::metadata(&self.path).map_err(self.failed("read"))?.len();
        if length == self.read {
            return Ok(false);
        }
        self.locked(|_, _| Ok(()))?;
        Ok(true)
    }

    /// Decides on what is known now, and makes what follows durable before anybody is told. Nobody else writes meanwhile.
    pub(super) fn change<T, E: From<LedgerError>>(
        &mut self,
        decide: impl FnOnce(&Known) -> Result<(Vec<Entry>, T), E>,
    ) -> Result<T, E> {
        let mut decided = None;
        let mut refused = None;
        self.locked(|ledger, file| {
            match decide(&ledger.known) {
                Ok((entries, outcome)) => {
                    ledger.append(file, entries)?;
                    decided = Some(outcome);
                }
                Err(error) => refused = Some(error),
            }
            Ok(())
        })?;
        match (decided, refused) {
            (Some(outcome), _) => Ok(outcome),
            (None, Some(error)) => Err(error),
            (None, None) => unreachable!("one of them is set under the lock"),
        }
    }

    fn locked(&mut self, act: impl FnOnce(&mut Self, &mut File) -> Result<(), LedgerError>) -> Result<(), LedgerError> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path);
        let mut file = file.map_err(self.failed("open"))?;
        file.lock().map_err(self.failed("lock"))?;
        self.take_in(&mut file)?;
        act(self, &mut file)
        // The lock goes with the file.
    }

    /// Reads what is new. An end without a line break is what a crash left of a write that nobody was told of: cut off.
    fn take_in(&mut self, file: &mut File) -> Result<(), LedgerError> {
        let length = file.metadata().map_err(self.failed("read"))?.len();
        if length < self.read {
            // Another file under the same name: a backup was put back.
            (self.known, self.read, self.lines) = (Known::default(), 0, 0);
        }
        file.seek(SeekFrom::Start(self.read)).map_err(self.failed("read"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(self.failed("read"))?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        for line in bytes[..whole].split_inclusive(|b| *b == b'\n') {
            let entry = serde_json::from_slice(line).map_err(|e| LedgerError::Damaged {
                path: self.path.clone(),
                line: self.lines + 1,
                why: e.to_string(),
            })?;
            self.known.apply(entry);
            self.lines += 1;
            self.read += line.len() as u64;
        }
        if whole < bytes.len() {
            file.set_len(self.read).map_err(self.failed("write"))?;
        }
        Ok(())
    }

    fn append(&mut self, file: &mut File, entries: Vec<Entry>) -> Result<(), LedgerError> {
        let mut bytes = Vec::new();
        for entry in &entries {
            bytes.extend(serde_json::to_vec(entry).map_err(io::Error::from).map_err(self.failed("write"))?);
            bytes.push(b'\n');
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            // Half of it must not stay: a later line would continue it.
            let _ = file.set_len(self.read);
            return Err(self.failed("write")(error));
        }
        self.read += bytes.len() as u64;
        self.lines += entries.len();
        entries.into_iter().for_each(|entry| self.known.apply(entry));
        Ok(())
    }
}

impl Issue {
    /// Of a certificate.
    pub(super) fn of(identity: &Identity, key: [u8; 32], token: Option<String>) -> Self {
        Self {
            serial: identity.serial.clone(),
            role: identity.role,
            name: identity.name.clone(),
            not_before: identity.not_before,
            not_after: identity.not_after,
            key: hex(&key),
            token,
        }
    }
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str) -> Entry {
        let hash = "00".repeat(32);
        Entry::Token(Token { id: id.to_owned(), hash, role: Role::Agent, uses: 2, not_after: 9 })
    }

    fn put(ledger: &mut Ledger, entry: Entry) {
        ledger.change(|_| Ok::<_, LedgerError>((vec![entry], ()))).expect("written");
    }

    #[test]
    fn two_programs_share_it_and_a_torn_end_is_cut() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut one, mut other) = (Ledger::open(dir.path()).expect("a"), Ledger::open(dir.path()).expect("b"));
        put(&mut one, token("a"));
        assert!(other.refresh().expect("read") && !other.refresh().expect("read"));
        assert!(other.known().tokens.contains_key("a"));
        let path = dir.path().join("ledger.jsonl");
        let mut torn = OpenOptions::new().append(true).open(&path).expect("opened");
        torn.write_all(b"{\"revoked\":{\"ser").expect("written");
        put(&mut other, Entry::Revoked { serial: "77".to_owned(), at: 1 });
        one.refresh().expect("read");
        assert!(one.known().revoked.contains("77"));
        assert_eq!(Ledger::open(dir.path()).expect("again").known(), one.known());
        assert!(!fleet_secure::files::is_open_to_others(&path));
    }

    #[test]
    fn a_damaged_line_is_not_skipped() {
        let dir = tempfile::tempdir().expect("a folder");
        put(&mut Ledger::open(dir.path()).expect("opened"), token("a"));
        let path = dir.path().join("ledger.jsonl");
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, format!("{text}{{\"revokd\":1}}\n")).expect("written");
        let error = Ledger::open(dir.path()).expect_err("damaged").to_string();
        assert!(error.contains("line 2") && error.contains("backup"), "{error}");
    }
}
