//! Records that were made elsewhere: named, read-only sets beside the campaigns.
//!
//! A set reaches the journal in parts, because an event has a largest size, and counts only once its last event is
//! there: whatever interrupts an import leaves parts without a name, which nobody sees.

use std::collections::{BTreeMap, HashMap};

use fleet_common::id::{CampaignName, TrialId};
use fleet_common::record_set::RecordSet;

use super::{ApplyError, Core, Event, Refusal, Reply, Token};

/// Bytes of records after which a part is full. With the largest record on top it stays far below the journal's limit.
const PART_BYTES: usize = 4 << 20;

/// An imported set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedSet {
    /// SHA-256 of its content, under which its records are kept.
    pub content: String,
    /// How many records it has.
    pub records: u64,
    /// The file that it came from.
    pub file_name: String,
    /// When it was imported, milliseconds since 1970.
    pub imported_unix_ms: u64,
}

/// Where the records of a name are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// They are those of a campaign's trials.
    Campaign(Vec<TrialId>),
    /// They are those of an imported set.
    Imported(ImportedSet),
}

/// All that was imported.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imports {
    pub(super) sets: BTreeMap<CampaignName, ImportedSet>,
    /// By content: number of a part's first record → how many records the part has.
    pub(super) parts: HashMap<String, BTreeMap<u64, u64>>,
}

impl Imports {
    /// The sets by name.
    pub fn sets(&self) -> &BTreeMap<CampaignName, ImportedSet> {
        &self.sets
    }

    pub(super) fn add_part(&mut self, content: &str, first: u64, records: u64) {
        let parts = self.parts.entry(content.to_owned()).or_default();
        let known = parts.entry(first).or_default();
        *known = records.max(*known);
    }

    pub(super) fn name_set(
        &mut self,
        name: &CampaignName,
        content: &str,
        records: u64,
        file_name: &str,
        imported_unix_ms: u64,
    ) -> Result<(), ApplyError> {
        if self.known(content) < records {
            return Err(ApplyError::Unknown(format!("a part of the imported set {name}")));
        }
        let set =
            ImportedSet { content: content.to_owned(), records, file_name: file_name.to_owned(), imported_unix_ms };
        self.sets.insert(name.clone(), set);
        Ok(())
    }

    /// How many records of this content are there without a gap from the first.
    fn known(&self, content: &str) -> u64 {
        let mut next = 0;
        for (first, records) in self.parts.get(content).into_iter().flatten() {
            if *first <= next {
                next = next.max(first.saturating_add(*records));
            }
        }
        next
    }
}

impl Core {
    pub(super) fn import(&mut self, token: Token, name: CampaignName, file_name: String, set: RecordSet) {
        let outcome = self.take_in(name, file_name, set);
        self.reply(token, Reply::Imported(outcome));
    }

    /// How many records the set has, and whether it is new.
    fn take_in(&mut self, name: CampaignName, file_name: String, set: RecordSet) -> Result<(u64, bool), Refusal> {
        let records = set.documents.len() as u64;
        if self.state.campaigns().contains_key(&name) {
            return Err(Refusal::NotNow(format!(
                "\"{name}\" is a campaign; nothing was imported. Choose another name with --as"
            )));
        }
        if let Some(known) = self.state.imports().sets().get(&name) {
            if known.content == set.content {
                return Ok((records, false));
            }
            return Err(Refusal::NotNow(format!(
                "there is a set \"{name}\" already, with other content ({} records from {}); nothing was imported. \
                 Choose another name with --as",
                known.records, known.file_name
            )));
        }
        if self.state.imports().known(&set.content) < records {
            for part in parts(&set.content, set.documents) {
                self.record(part);
            }
        }
        self.record(Event::SetImported { name, content: set.content, records, file_name });
        Ok((records, true))
    }

    pub(super) fn locate(&self, name: &CampaignName) -> Result<Source, Refusal> {
        match self.state.imports().sets().get(name) {
            Some(set) => Ok(Source::Imported(set.clone())),
            None => Ok(Source::Campaign(self.campaign(name)?.trials.clone())),
        }
    }
}

fn parts(content: &str, documents: Vec<(u64, Vec<u8>)>) -> Vec<Event> {
    let mut parts = Vec::new();
    let (mut first, mut bytes, mut records) = (0, 0, Vec::new());
    let part = |first, records| Event::ImportedPart { content: content.to_owned(), first, records };
    for (_, document) in documents {
        bytes += document.len();
        records.push(document);
        if bytes >= PART_BYTES {
            let count = records.len() as u64;
            parts.push(part(first, std::mem::take(&mut records)));
            (first, bytes) = (first + count, 0);
        }
    }
    if !records.is_empty() {
        parts.push(part(first, records));
    }
    parts
}
