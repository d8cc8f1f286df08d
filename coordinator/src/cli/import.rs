//! A file of records → a named, read-only set at the coordinator.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use fleet_common::id::CampaignName;
use fleet_common::record_set::{Builder, LineError, MAX_RECORD_BYTES, Problem, RecordSet};
use fleet_common::wire::v1;

use super::{Coordinator, Failure, Json, client, print_json};

/// Bytes of records after which a message is full: with the largest record on top it is within the limit of 16 MiB.
const CHUNK_BYTES: usize = 4 << 20;

/// `fleet import`.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// Records as `fleet export --jsonl` writes them: one fleet.record/1 document per line
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    /// Name of the set, like a campaign's
    #[arg(long = "as", value_name = "NAME")]
    name: CampaignName,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Import {
    pub(super) async fn run(self) -> Result<(), Failure> {
        // All of it is read and checked before any of it is sent.
        let set = read(&self.file)?;
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let chunks = chunks(self.name.to_string(), self.file.display().to_string(), set);
        let reply = client.import(tokio_stream::iter(chunks)).await?.into_inner();
        if self.json.json {
            print_json(&serde_json::json!({
                "schema": "fleet.imported/1", "name": self.name, "records": reply.records, "new": reply.new,
            }));
        } else if reply.new {
            say!("{}: {} records imported", self.name, reply.records);
            say!("Compare them with `fleet compare {} CAMPAIGN --by hardware`.", self.name);
        } else {
            say!("{}: the same {} records were there already; nothing changed", self.name, reply.records);
        }
        Ok(())
    }
}

/// Reads and checks a file. Empty lines are passed over.
fn read(path: &Path) -> Result<RecordSet, Failure> {
    let cannot = |e: std::io::Error| Failure::usage(format!("cannot read the records {}: {e}", path.display()));
    let wrong = |e: LineError| Failure::usage(format!("{}, {e}", path.display()));
    let mut file = BufReader::new(File::open(path).map_err(cannot)?);
    let mut builder = Builder::default();
    for number in 1.. {
        let mut line = Vec::new();
        // A file without line ends must not fill the memory: one byte beyond the largest record says enough.
        let most = MAX_RECORD_BYTES as u64 + 2;
        if file.by_ref().take(most).read_until(b'\n', &mut line).map_err(cannot)? == 0 {
            break;
        }
        if line.len() as u64 == most && line.last() != Some(&b'\n') {
            return Err(wrong(LineError { line: number, problem: Problem::TooLarge(line.len()) }));
        }
        let record = line.trim_ascii();
        if !record.is_empty() {
            builder.add(number, record.to_vec()).map_err(wrong)?;
        }
    }
    builder.finish().ok_or_else(|| {
        Failure::usage(format!("{} holds no record; expected one fleet.record/1 document per line", path.display()))
    })
}

/// The set in messages; each record is moved, because a set may be large.
fn chunks(name: String, file_name: String, set: RecordSet) -> impl Iterator<Item = v1::ImportChunk> {
    let mut documents = set.documents.into_iter().peekable();
    let mut names = Some((name, file_name));
    std::iter::from_fn(move || {
        documents.peek()?;
        let (name, file_name) = names.take().unwrap_or_default();
        let mut chunk = v1::ImportChunk { name, file_name, records: Vec::new() };
        let mut bytes = 0;
        while bytes < CHUNK_BYTES
            && let Some((line, record_json)) = documents.next()
        {
            bytes += record_json.len();
            chunk.records.push(v1::ImportedRecord { line, record_json });
        }
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_everything_once_and_stay_within_a_message() {
        let documents: Vec<(u64, Vec<u8>)> = (1..=9).map(|n| (n, vec![n as u8; 3 << 20])).collect();
        let set = RecordSet { documents: documents.clone(), content: String::new() };
        let chunks: Vec<_> = chunks("n".into(), "f".into(), set).collect();
        assert_eq!(chunks.len(), 5);
        assert_eq!((chunks[0].name.as_str(), chunks[1].name.as_str()), ("n", ""));
        let sent = chunks.into_iter().flat_map(|c| c.records).map(|r| (r.line, r.record_json));
        assert!(sent.eq(documents));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name_and_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |text: &[u8]| {
            let path = dir.path().join("r.jsonl");
            std::fs::write(&path, text).expect("writes");
            read(&path).expect_err("refused").message().expect("words").to_owned()
        };
        assert!(file(b"\n\n").contains("holds no record"));
        assert!(file(b"\n{\"schema\":\"fleet.record/1\",\"tri").contains("r.jsonl, line 2: the record is cut short"));
        assert!(
            file(b"{\"schema\":\"fleet.plan/1\"}\n").contains("line 1: expected a record of schema fleet.record/1")
        );
        assert!(file(&vec![b'['; MAX_RECORD_BYTES + 10]).contains("line 1: the record has 8.0 MiB"));
        let absent = read(&dir.path().join("absent.jsonl")).expect_err("refused");
        assert!(absent.message().expect("words").contains("cannot read the records"));
    }
}
