//! Records in a file: one document per line, each whole and of this form, no measurement twice.
//!
//! The same checks hold where a file is read and where it arrives, because neither side takes the other's word.

use std::collections::HashMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::canonical::hex;
use crate::id::{AgentId, Attempt, CellId, TrialId};
use crate::record::{Record, SCHEMA};
use crate::units::Bytes;

/// The largest record, bytes: half of what a message may hold. A record of 100 000 losses has about a tenth of it.
pub const MAX_RECORD_BYTES: usize = 8 << 20;

/// The largest set, bytes: it is taken in as a whole, so both sides hold it in memory. About ten thousand records.
pub const MAX_SET_BYTES: usize = 256 << 20;

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LineError {
    /// Which, from 1.
    pub line: u64,
    /// What.
    pub problem: Problem,
}

/// What is wrong with a record of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The document begins well and ends in the middle.
    #[error("the record is cut short: the line ends in the middle of it. Export or copy the file again")]
    CutShort,
    /// It says that it is something else.
    #[error("expected a record of schema {SCHEMA}, found \"{found}\"")]
    OtherSchema {
        /// The schema that it names.
        found: String,
    },
    /// It is something else.
    #[error("expected a {SCHEMA} document as `fleet export --jsonl` writes it, found something else: {why}")]
    NotARecord {
        /// The parser's reason.
        why: String,
    },
    /// A cell is the hash of its settings, and this is not.
    #[error("the record says that it is of cell {cell}, and its settings are those of cell {settings}: it was changed")]
    ChangedSettings {
        /// What it says.
        cell: CellId,
        /// What its settings hash to.
        settings: CellId,
    },
    /// Two records for one measurement.
    #[error(
        "a second record of trial {trial}, attempt {attempt} by agent {agent}; the first is in line {first}. Keep one"
    )]
    Twice {
        /// The trial.
        trial: Box<TrialId>,
        /// The attempt.
        attempt: Attempt,
        /// The agent.
        agent: AgentId,
        /// The line of the first.
        first: u64,
    },
    /// A record beyond [`MAX_RECORD_BYTES`].
    #[error("the record has {}, and at most {} are accepted", Bytes(*.0 as u64), Bytes(MAX_RECORD_BYTES as u64))]
    TooLarge(usize),
    /// A set beyond [`MAX_SET_BYTES`].
    #[error("with this record the set has more than {}; divide the file and import each part under a name of its own",
        Bytes(MAX_SET_BYTES as u64))]
    SetTooLarge,
}

/// A checked set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSet {
    /// The documents with their lines, in the order of the file, byte for byte.
    pub documents: Vec<(u64, Vec<u8>)>,
    /// SHA-256 over the documents, each with a line feed behind it, hexadecimal: sets with the same are the same.
    pub content: String,
}

/// Takes in a set line by line.
#[derive(Debug, Default)]
pub struct Builder {
    documents: Vec<(u64, Vec<u8>)>,
    seen: HashMap<(TrialId, Attempt, AgentId), u64>,
    bytes: usize,
    hash: Sha256,
}

impl Builder {
    /// Adds the record that stands in `line`.
    ///
    /// # Errors
    /// See [`Problem`]; the set is then as before.
    pub fn add(&mut self, line: u64, document: Vec<u8>) -> Result<(), LineError> {
        let wrong = |problem| LineError { line, problem };
        if document.len() > MAX_RECORD_BYTES {
            return Err(wrong(Problem::TooLarge(document.len())));
        }
        if self.bytes + document.len() > MAX_SET_BYTES {
            return Err(wrong(Problem::SetTooLarge));
        }
        let record = read(&document).map_err(wrong)?;
        let key = (record.trial, record.attempt, record.machine.agent);
        if let Some(&first) = self.seen.get(&key) {
            let (trial, attempt, agent) = key;
            return Err(wrong(Problem::Twice { trial: Box::new(trial), attempt, agent, first }));
        }
        self.seen.insert(key, line);
        self.bytes += document.len();
        self.hash.update(&document);
        self.hash.update(b"\n");
        self.documents.push((line, document));
        Ok(())
    }

    /// The set; `None` if nothing was added.
    pub fn finish(self) -> Option<RecordSet> {
        let content = hex(&self.hash.finalize());
        (!self.documents.is_empty()).then_some(RecordSet { documents: self.documents, content })
    }
}

fn read(document: &[u8]) -> Result<Record, Problem> {
    #[derive(Deserialize)]
    struct Named {
        schema: Option<String>,
    }
    let why = |e: serde_json::Error| {
        if e.is_eof() { Problem::CutShort } else { Problem::NotARecord { why: e.to_string() } }
    };
    let named: Named = serde_json::from_slice(document).map_err(why)?;
    match named.schema {
        Some(schema) if schema == SCHEMA => {}
        // A file from elsewhere: do not echo a megabyte of it.
        Some(schema) => return Err(Problem::OtherSchema { found: schema.chars().take(80).collect() }),
        None => return Err(Problem::NotARecord { why: "it names no schema".to_owned() }),
    }
    let record: Record = serde_json::from_slice(document).map_err(why)?;
    let settings = record.settings.id();
    if settings == record.trial.cell {
        Ok(record)
    } else {
        Err(Problem::ChangedSettings { cell: record.trial.cell, settings })
    }
}

/// A document on one line, and otherwise byte for byte as it was: in JSON, a line break is white space and nothing
/// else.
pub fn on_one_line(document: &[u8]) -> Vec<u8> {
    document.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contrast::example;

    fn record(seed: u64) -> Vec<u8> {
        example(seed).to_json()
    }

    fn problem(lines: &[Vec<u8>]) -> LineError {
        let mut builder = Builder::default();
        let outcome = lines.iter().zip(1..).try_for_each(|(l, n)| builder.add(n, l.clone()));
        outcome.expect_err("a problem")
    }

    #[test]
    fn a_set_is_its_documents_byte_for_byte() {
        let mut builder = Builder::default();
        builder.add(1, record(0)).expect("a record");
        builder.add(3, record(1)).expect("a record");
        let set = builder.finish().expect("a set");
        assert_eq!(set.documents, [(1, record(0)), (3, record(1))]);
        let expected = crate::canonical::sha256_hex(&[record(0), b"\n".to_vec(), record(1), b"\n".to_vec()].concat());
        assert_eq!(set.content, expected);
        assert_eq!(Builder::default().finish(), None);
    }

    #[test]
    fn each_mistake_is_named_with_its_line() {
        let good = record(0);
        let text = String::from_utf8(good.clone()).expect("text");
        let cut = good[..good.len() - 20].to_vec();
        assert_eq!(problem(&[record(1), cut]), LineError { line: 2, problem: Problem::CutShort });
        let other = br#"{"schema":"fleet.report/1","campaign":"x"}"#.to_vec();
        let found = Problem::OtherSchema { found: "fleet.report/1".into() };
        assert_eq!(problem(&[other]), LineError { line: 1, problem: found });
        let later = text.replace("fleet.record/1", "fleet.record/2").into_bytes();
        assert!(matches!(problem(&[later]).problem, Problem::OtherSchema { .. }));
        for junk in [&b"[1, 2]"[..], b"trial,seconds", b"{}", b"\xff\xfe", br#"{"schema":"fleet.record/1"}"#] {
            assert!(matches!(problem(&[junk.to_vec()]).problem, Problem::NotARecord { .. }), "{junk:?}");
        }
        let changed = text.replace("\"steps\":10,\"warm", "\"steps\":11,\"warm").into_bytes();
        assert_ne!(changed, good);
        assert!(matches!(problem(&[changed]).problem, Problem::ChangedSettings { .. }));
        let twice = problem(&[good.clone(), record(1), good]);
        assert_eq!(twice.line, 3);
        assert!(twice.to_string().contains("the first is in line 1"), "{twice}");
        let large = vec![b' '; MAX_RECORD_BYTES + 1];
        assert!(problem(&[large]).to_string().contains("8.0 MiB"));
    }

    #[test]
    fn line_breaks_outside_of_words_are_all_that_one_line_changes() {
        let pretty = serde_json::to_vec_pretty(&example(0)).expect("JSON");
        let line = on_one_line(&pretty);
        assert!(!line.contains(&b'\n'));
        assert_eq!(Record::from_json(&line), Ok(example(0)));
    }
}
