//! Commands against a coordinator of their own: records out, in, and out again.

use std::path::Path;

use clap::Parser as _;
use fleet_common::id::Attempt;
use fleet_common::lease::{Holder, LeaseTerms};
use fleet_common::record::Record;
use fleet_common::telemetry::Seal;

use super::serve::{Kind, Running};
use super::{Cli, Failure, client, dispatch};
use crate::core::{CellEntry, Event, Submission};
use crate::report::tests::{asked, published, records};
use crate::store::{Keep, Store};

const TERMS: LeaseTerms = LeaseTerms { time_ms: 60_000, renew_every_ms: 15_000, missed_renewals: 4, max_losses: 3 };

/// A state folder with a finished campaign of these records.
pub(super) fn finished(state: &Path, name: &str, records: &[Record]) {
    let (mut store, _, _) = Store::open(state).expect("opens");
    let cell = |r: &Record| CellEntry {
        id: r.trial.cell.clone(),
        settings: fleet_common::plan::SettingsText::of(&fleet_common::canonical::json(&r.settings)),
        dataset: "textures".into(),
    };
    let mut events = vec![Event::CampaignSubmitted(Box::new(Submission {
        name: name.parse().expect("a name"),
        toml: String::new(),
        cells: records.iter().map(cell).collect(),
        trials: records.iter().map(|r| r.trial.clone()).collect(),
        excluded_json: vec![],
        warnings: vec![],
        keep: Default::default(),
        scheduling: Default::default(),
    }))];
    for r in records {
        let (trial, attempt) = (r.trial.clone(), Attempt::FIRST);
        let holder = Holder { agent: r.machine.agent.clone(), slot: r.machine.slot.clone() };
        events.push(Event::LeaseGranted { trial: trial.clone(), attempt, holder });
        let (class, record) = (r.outcome.kind(), r.to_json());
        events.push(Event::TrialRecorded {
            trial,
            attempt,
            class,
            record,
            seal: Seal::default(),
            figures: Default::default(),
        });
    }
    store.commit(events.into_iter().map(|e| (1, e)).collect()).expect("commits");
}

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) running: Running,
}

impl World {
    pub(super) async fn start(dir: tempfile::TempDir) -> Self {
        Self::keeping(dir, Keep::default()).await
    }

    /// With retention.
    pub(super) async fn keeping(dir: tempfile::TempDir, keep: Keep) -> Self {
        let address = "127.0.0.1:0".parse().expect("an address");
        let running =
            Running::start(&dir.path().join("state"), address, TERMS, keep, Kind::default()).await.expect("starts");
        Self { dir, running }
    }

    pub(super) async fn restart(self) -> Self {
        self.running.stop().await;
        Self::start(self.dir).await
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).expect("a file")
    }

    pub(super) async fn fleet(&self, words: &[&str]) -> Result<(), Failure> {
        let url = format!("http://{}", self.running.address);
        let mut line = vec!["fleet"];
        line.extend(words);
        line.extend(["--coordinator", &url]);
        dispatch(Cli::try_parse_from(line).expect("a command").command).await
    }

    /// What the command is refused with; it must be for what was given.
    pub(super) async fn refused(&self, words: &[&str]) -> String {
        match self.fleet(words).await {
            Err(Failure::Usage(message)) => message,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    async fn imported(&self) -> Vec<(String, u64)> {
        let mut client = client::connect(&format!("http://{}", self.running.address)).await.expect("connects");
        let status = client.status(fleet_common::wire::v1::StatusRequest { campaign: None }).await.expect("a status");
        status.into_inner().imported.into_iter().map(|s| (s.name, s.records)).collect()
    }
}

#[tokio::test]
async fn records_go_out_and_in_and_out_again_unchanged() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = records();
    finished(&dir.path().join("state"), "nightly", &records);
    let w = World::start(dir).await;
    let (a, b) = (w.file("a.jsonl"), w.file("b.jsonl"));
    w.fleet(&["export", "nightly", "--jsonl", &a]).await.expect("exports");
    let lines: Vec<Vec<u8>> = w.read("a.jsonl").lines().map(|l| l.as_bytes().to_vec()).collect();
    assert_eq!(lines, records.iter().map(Record::to_json).collect::<Vec<_>>(), "exactly the stored bytes");
    for _ in 0..2 {
        w.fleet(&["import", &a, "--as", "lab-b"]).await.expect("imports");
        assert_eq!(w.imported().await, [("lab-b".to_owned(), records.len() as u64)]);
    }
    let w = w.restart().await;
    w.fleet(&["export", "lab-b", "--jsonl", &b]).await.expect("exports");
    assert_eq!(w.read("a.jsonl"), w.read("b.jsonl"));
    w.fleet(&["export", "lab-b", "--csv", &w.file("b.csv")]).await.expect("exports");
    assert_eq!(w.read("b.csv").lines().count(), 1 + records.len());
    w.fleet(&["compare", "nightly", "lab-b", "--by", "hardware"]).await.expect("compares");
    w.fleet(&["status", "lab-b"]).await.expect("a status");
    for command in [
        &["watch", "lab-b"][..],
        &["cancel", "lab-b"],
        &["retry", "lab-b", "--failed"],
        &["report", "lab-b"],
        &["samples", "lab-b"],
    ] {
        let message = w.refused(command).await;
        assert!(message.contains("\"lab-b\" is a set of imported records"), "{command:?}: {message}");
    }
    assert!(w.refused(&["compare", "lab-c", "--by", "method"]).await.contains("did you mean \"lab-b\"?"));
    w.running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_imported_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = records();
    finished(&dir.path().join("state"), "nightly", &records[..1]);
    let w = World::start(dir).await;
    let write = |text: String| std::fs::write(w.file("r.jsonl"), text).expect("writes");
    let line = |i: usize| String::from_utf8(records[i].to_json()).expect("text");
    let path = w.file("r.jsonl");
    let half = &line(2)[..100];
    let cases = [
        (format!("{}\n{}\n{half}", line(0), line(1)), "r.jsonl, line 3: the record is cut short"),
        (format!("{}\n{}\n{}\n", line(0), line(1), line(0)), "r.jsonl, line 3: a second record"),
        (format!("{}\n{{\"schema\":\"fleet.plan/1\"}}\n", line(0)), "r.jsonl, line 2: expected a record of schema"),
    ];
    for (text, expected) in cases {
        write(text);
        let message = w.refused(&["import", &path, "--as", "set"]).await;
        assert!(message.contains(expected), "{message}");
        assert_eq!(w.imported().await, []);
    }
    write(line(0) + "\n");
    assert!(w.refused(&["import", &path, "--as", "nightly"]).await.contains("\"nightly\" is a campaign"));
    assert_eq!(w.imported().await, []);
    w.fleet(&["import", &path, "--as", "set"]).await.expect("imports");
    write(line(0) + "\n" + &line(1));
    assert!(w.refused(&["import", &path, "--as", "set"]).await.contains("other content"));
    assert_eq!(w.imported().await, [("set".to_owned(), 1)]);
    w.running.stop().await;
}

/// The coordinator does not take a client's word for what it sends.
#[tokio::test]
async fn the_coordinator_checks_what_arrives() {
    use fleet_common::wire::v1::{ImportChunk, ImportedRecord};
    let w = World::start(tempfile::tempdir().expect("a folder")).await;
    let mut client = client::connect(&format!("http://{}", w.running.address)).await.expect("connects");
    let chunk = |name: &str, documents: &[&[u8]]| ImportChunk {
        name: name.into(),
        file_name: "sent.jsonl".into(),
        records: (1..).zip(documents).map(|(line, d)| ImportedRecord { line, record_json: d.to_vec() }).collect(),
    };
    let good = records()[0].to_json();
    let cases = [
        (vec![], "a name for the imported records"),
        (vec![chunk("../etc", &[&good])], "a name of at most 64"),
        (vec![chunk("s", &[])], "holds no record"),
        (vec![chunk("s", &[&good]), chunk("", &[b"{\"schema\":"])], "sent.jsonl, line 1: the record is cut short"),
        (vec![chunk("s", &[&good]), chunk("", &[&good])], "a second record"),
    ];
    for (chunks, expected) in cases {
        let status = client.import(tokio_stream::iter(chunks)).await.expect_err("refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(expected), "{status}");
    }
    assert_eq!(w.imported().await, []);
    w.running.stop().await;
}

#[tokio::test]
async fn answers_are_exported_as_a_table() {
    let dir = tempfile::tempdir().expect("a folder");
    finished(&dir.path().join("state"), "asked", &asked());
    finished(&dir.path().join("state"), "nightly", &records());
    let w = World::start(dir).await;
    let out = w.file("answers.csv");
    w.fleet(&["export", "asked", "--answers", &out]).await.expect("exports");
    let table = w.read("answers.csv");
    assert_eq!(table.lines().next().map(|head| head.split(',').count()), Some(13));
    assert!(table.contains(",It is a maple tree!,3,maple tree,40,31,10\r\n"), "{table}");
    // Nobody was asked: the head alone, so that a script finds a table.
    w.fleet(&["export", "nightly", "--answers", &out]).await.expect("exports");
    assert_eq!(w.read("answers.csv").lines().count(), 1);
    let both = ["fleet", "export", "asked", "--answers", "a.csv", "--csv", "b.csv"];
    assert!(Cli::try_parse_from(both).is_err(), "one form at a time");
    w.running.stop().await;
}

/// The option reaches what is written.
#[tokio::test]
async fn a_report_counts_what_is_prepared_where_it_is_told_to() {
    let dir = tempfile::tempdir().expect("a folder");
    finished(&dir.path().join("state"), "nightly", &published());
    let w = World::start(dir).await;
    let out = w.file("out.html");
    for (option, says) in [
        (None, "What is prepared before the first image does not count"),
        (Some("--count-preparation"), "What is prepared before the first image counts"),
    ] {
        let words = |command: &[&'static str]| -> Vec<String> {
            command.iter().copied().chain(["--html", &out]).chain(option).map(str::to_owned).collect()
        };
        for command in [&["report", "nightly"][..], &["compare", "nightly", "--by", "hardware"]] {
            let words = words(command);
            w.fleet(&words.iter().map(String::as_str).collect::<Vec<_>>()).await.expect("writes a page");
            assert!(w.read("out.html").contains(says), "{words:?}");
        }
    }
    w.running.stop().await;
}
