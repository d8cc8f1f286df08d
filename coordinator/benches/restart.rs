//! From a coordinator's start to its answer, with so many finished trials in its store: `cargo bench -p
//! fleet-coordinator --bench restart -- [TRIALS] [--json]`. Also what a snapshot takes, and what all of it weighs.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fleet_common::id::{Attempt, TrialId};
use fleet_common::lease::Holder;
use fleet_common::plan::{SettingsText, Texts};
use fleet_common::record::OutcomeClass;
use fleet_common::telemetry::Seal;
use fleet_common::units::Bytes;
use fleet_coordinator::core::{CellEntry, Event, Submission};
use fleet_coordinator::store::{Store, rebuild};

/// Settings of a cell and a record are about as long as real ones: text that is repeated would shrink too well.
const SETTINGS_BYTES: usize = 1100;
const RECORD_BYTES: usize = 4500;
/// Trials of one campaign.
const CAMPAIGN: usize = 10_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Only `cargo bench` says --bench; `cargo test --all-targets` wants to know that it works.
    let usual = if args.iter().any(|a| a == "--bench") { 100_000 } else { 500 };
    let trials = args.iter().find_map(|a| a.parse().ok()).unwrap_or(usual);
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state");
    let filling = fill(&state, trials);
    let rebuilding = Instant::now();
    rebuild(&state).expect("rebuilds");
    let rebuilding = rebuilding.elapsed();
    // The first start reads what the last one left in the system's memory, as a restart does.
    let starts: Vec<(Duration, u64)> = (0..3).map(|_| start(&state)).collect();
    let (best, peak) = starts.iter().min().copied().expect("three");
    let size = |name: &str| weight(&state.join(name));
    let (journal, snapshots, index) = (size("journal"), size("snapshots"), size("index"));
    if args.iter().any(|a| a == "--json") {
        let starts: Vec<f64> = starts.iter().map(|(t, _)| t.as_secs_f64()).collect();
        println!(
            "{}",
            serde_json::json!({
                "schema": "fleet.restart/1", "trials": trials, "restart_seconds": starts, "peak_resident_bytes": peak,
                "rebuild_seconds": rebuilding.as_secs_f64(), "fill_seconds": filling.as_secs_f64(),
                "journal_bytes": journal, "snapshot_bytes": snapshots, "index_bytes": index,
            })
        );
        return;
    }
    println!(
        "{trials} finished trials: journal {}, snapshots {}, index {}",
        Bytes(journal),
        Bytes(snapshots),
        Bytes(index)
    );
    let all: Vec<String> = starts.iter().map(|(t, _)| format!("{:.2}", t.as_secs_f64())).collect();
    println!(
        "start to serving: {:.2} s (of {} s), {} resident at most",
        best.as_secs_f64(),
        all.join(", "),
        Bytes(peak)
    );
    println!("all from the journal: {:.1} s; writing it all: {:.1} s", rebuilding.as_secs_f64(), filling.as_secs_f64());
}

/// Text that no two trials share, of that length.
fn filler(seed: usize, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 64);
    let mut n = seed as u64;
    while text.len() < bytes {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("\"series_{}\":{},", n % 40, (n >> 33) as f64 / 1e3));
    }
    text
}

fn trial(n: usize) -> TrialId {
    format!("{:032x}/0", n as u128 * 0x9e37_79b9_7f4a_7c15 + 1).parse().expect("an id")
}

/// Submits, grants and records; the coordinator is then stopped in good order, without a snapshot.
fn fill(state: &Path, trials: usize) -> Duration {
    let started = Instant::now();
    let (mut store, _, _) = Store::open(state).expect("opens");
    let holder = Holder { agent: "bench".parse().expect("an id"), slot: "cpu".parse().expect("a slot") };
    for first in (0..trials).step_by(CAMPAIGN) {
        let numbers = first..trials.min(first + CAMPAIGN);
        let ids: Vec<TrialId> = numbers.clone().map(trial).collect();
        let mut texts = Texts::default();
        let cells = ids.iter().zip(numbers).map(|(id, n)| CellEntry {
            id: id.cell.clone(),
            settings: texts.share(SettingsText::of(&format!("{{{}\"seed\":{n}}}", filler(n % 7, SETTINGS_BYTES)))),
            dataset: "cifar100".into(),
        });
        let submitted = Event::CampaignSubmitted(Box::new(Submission {
            name: format!("campaign-{first}").parse().expect("a name"),
            toml: "# a campaign".into(),
            cells: cells.collect(),
            trials: ids.clone(),
            excluded_json: vec![],
            warnings: vec![],
            keep: Default::default(),
            scheduling: Default::default(),
        }));
        store.commit(vec![(1, submitted)]).expect("commits");
        for (part, some) in ids.chunks(200).enumerate() {
            let events = some.iter().enumerate().flat_map(|(i, trial)| {
                let granted =
                    Event::LeaseGranted { trial: trial.clone(), attempt: Attempt::FIRST, holder: holder.clone() };
                let recorded = Event::TrialRecorded {
                    trial: trial.clone(),
                    attempt: Attempt::FIRST,
                    class: OutcomeClass::Completed,
                    record: filler(first + part * 200 + i, RECORD_BYTES).into_bytes(),
                    seal: Seal { stored: 0, missing: 0, crc32: 0 },
                    figures: Default::default(),
                };
                [(2, granted), (3, recorded)]
            });
            store.commit(events.collect()).expect("commits");
        }
    }
    started.elapsed()
}

/// Starts a coordinator and ends it once it serves; returns how long that took, and the most memory that it had.
fn start(state: &Path) -> (Duration, u64) {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .arg("serve")
        .arg("--state")
        .arg(state)
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let took = started.elapsed();
    assert!(line.starts_with("listening on "), "{line}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    child.kill().expect("our own child");
    child.wait().expect("ends");
    (took, peak.unwrap_or(0) * 1024)
}

/// Bytes below a folder.
fn weight(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return std::fs::metadata(path).map_or(0, |m| m.len()) };
    entries.filter_map(Result::ok).map(|entry| weight(&entry.path())).sum()
}
