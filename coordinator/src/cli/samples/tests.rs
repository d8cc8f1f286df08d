//! Samples of a coordinator's own, out into files, and read again by the formats' readers.

use std::collections::BTreeMap;
use std::path::Path;

use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use ::parquet::record::{Field, Row as ParquetRow};
use fleet_common::id::{Attempt, TrialId};
use fleet_common::lease::Holder;
use fleet_common::record::Record;
use fleet_common::telemetry::{MonoNanos, Sample, Series};

use super::*;
use crate::cli::tests::{World, finished};
use crate::core::Event;
use crate::report::tests::records;
use crate::service::rpc::agents_client::AgentsClient;
use crate::store::{Keep, Samples as Stored, Store};

/// Wall clock minus monotonic clock.
const OFFSET: i64 = 1_700_000_000_000_000_000;

fn batch(trial: &TrialId, attempt: Attempt, numbers: std::ops::Range<u64>) -> v1::SampleBatch {
    let series = [Series::GpuPowerMilliwatts, Series::AllocatorLiveBytes];
    let sample = |number: u64| Sample {
        number,
        at: MonoNanos(number * 50_000_001),
        channel: series[(number % 2) as usize].into(),
        value: number as i64 * 1001 - 1,
    };
    wire::batch(trial, attempt, &numbers.map(sample).collect::<Vec<_>>(), OFFSET, "boot")
}

/// Two trials with records; the second is opened again and at its second attempt. Samples are missing of the first.
async fn state(state: &Path) -> [TrialId; 2] {
    let records: Vec<Record> = records().into_iter().take(2).map(|r| Record { samples_taken: 8, ..r }).collect();
    finished(state, "nightly", &records);
    let (mut store, _, _) = Store::open(state).expect("opens");
    let trials = [&records[0], &records[1]].map(|r| r.trial.clone());
    let second = Attempt::FIRST.next();
    let holder = Holder { agent: "a".parse().expect("an id"), slot: "cpu".parse().expect("a slot") };
    let retried = Event::TrialRetried { trial: trials[1].clone(), campaign: "nightly".parse().expect("a name") };
    let granted = Event::LeaseGranted { trial: trials[1].clone(), attempt: second, holder };
    store.commit(vec![(1, retried), (1, granted)]).expect("commits");
    drop(store);
    let stored = Stored::open(&state.join("samples")).expect("opens");
    for (trial, attempt, numbers) in [
        (&trials[0], Attempt::FIRST, 0..3),
        (&trials[0], Attempt::FIRST, 5..7),
        (&trials[1], Attempt::FIRST, 0..4),
        (&trials[1], second, 0..2),
    ] {
        stored.store(trial, attempt, batch(trial, attempt, numbers)).await.expect("stores");
    }
    trials
}

fn parquet_rows(path: &str) -> (Vec<ParquetRow>, BTreeMap<String, String>) {
    let reader = SerializedFileReader::new(std::fs::File::open(path).expect("there")).expect("a Parquet file");
    let metadata = reader.metadata().file_metadata().key_value_metadata().cloned().expect("has some");
    let metadata = metadata.into_iter().map(|kv| (kv.key, kv.value.unwrap_or_default())).collect();
    (reader.get_row_iter(None).expect("rows").map(|row| row.expect("reads")).collect(), metadata)
}

fn fields(row: &ParquetRow) -> Vec<Field> {
    row.get_column_iter().map(|(_, field)| field.clone()).collect()
}

#[tokio::test]
async fn all_samples_of_a_campaign_go_into_one_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let trials = state(&dir.path().join("state")).await;
    let w = World::start(dir).await;
    let (parquet, csv) = (w.file("a.parquet"), w.file("a.csv"));
    w.fleet(&["samples", "nightly", "--parquet", &parquet]).await.expect("exports");
    w.fleet(&["samples", "nightly", "--csv", &csv]).await.expect("exports");
    w.fleet(&["samples", "nightly"]).await.expect("lists");
    w.fleet(&["samples", "nightly", "--json"]).await.expect("lists");

    let (rows, metadata) = parquet_rows(&parquet);
    assert_eq!(rows.len(), 5 + 4 + 2);
    let id = trials[0].to_string();
    assert_eq!(
        fields(&rows[3]),
        [
            Field::Str(id.clone()),
            Field::Str(trials[0].cell.to_string()),
            Field::UInt(1),
            Field::ULong(5),
            Field::ULong(250_000_005),
            Field::TimestampMicros(OFFSET / 1000 + 250_000),
            Field::Str("allocator_live_bytes".to_owned()),
            Field::UShort(0),
            Field::Double(5004.0),
            Field::Long(5004),
        ]
    );
    let attempts: Vec<Field> = rows.iter().map(|row| fields(row).swap_remove(2)).collect();
    assert_eq!(attempts[9..], [Field::UInt(2), Field::UInt(2)]);
    assert_eq!(fields(&rows[0])[8], Field::Double(-0.001), "milliwatts in watts");
    assert_eq!(metadata["netscore.campaign"], "nightly");
    let gap = |first, last| format!("{{\"attempt\":1,\"first\":{first},\"last\":{last},\"trial\":\"{id}\"}}");
    assert_eq!(metadata["netscore.gaps"], format!("[{},{}]", gap(3, 4), gap(7, 7)));
    assert!(metadata["netscore.units"].contains("\"gpu_power_milliwatts\":\"watts\""), "{metadata:?}");

    let text = w.read("a.csv");
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines.len(), 1 + 11 + 1);
    let cell = &trials[0].cell;
    let tail = "1,5,250000005,1700000000.250000,allocator_live_bytes,0,5004,5004";
    assert_eq!(lines[4], format!("{id},{cell},{tail}"));
    w.running.stop().await;
}

#[tokio::test]
async fn one_trial_can_be_asked_for_and_what_is_there_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let trials = state(&dir.path().join("state")).await;
    let w = World::start(dir).await;
    let file = w.file("b.parquet");
    let of = |trial: &str, out: &str| ["samples", "nightly", "--trial", trial, "--parquet", out].map(str::to_owned);
    let words = of(&trials[1].to_string(), &file);
    w.fleet(&words.each_ref().map(String::as_str)).await.expect("exports");
    assert_eq!(parquet_rows(&file).0.len(), 6);

    let nobody = format!("{}/77", trials[1].cell);
    let words = of(&nobody, &file);
    let message = w.refused(&words.each_ref().map(String::as_str)).await;
    assert!(message.contains(&format!("has no samples of a trial {nobody}")), "{message}");
    assert_eq!(parquet_rows(&file).0.len(), 6, "the file is what it was");
    let folder = w.dir.path().display().to_string();
    assert!(w.refused(&["samples", "nightly", "--csv", &folder]).await.contains("is not a file"));
    assert!(w.refused(&["samples", "nigthly", "--csv", &file]).await.contains("did you mean \"nightly\"?"));
    w.running.stop().await;
}

/// Makes a chunk file look as if it was last written to so many hours ago.
fn age(state: &Path, trial: &TrialId, attempt: u32, hours: u64) {
    let name = format!("{}-{attempt}.chunks", trial.file_stem());
    let file = state.join("samples").join(&name[..2]).join(&name);
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
    std::fs::File::options().write(true).open(file).expect("there").set_modified(then).expect("sets");
}

#[tokio::test]
async fn what_retention_removed_is_said_to_be_and_what_runs_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("state");
    let trials = state(&folder).await;
    age(&folder, &trials[0], 1, 50);
    age(&folder, &trials[1], 1, 30);
    age(&folder, &trials[1], 2, 90);
    let keep = Keep { time: "40h".parse().expect("a time"), space: None };
    let w = World::keeping(dir, keep).await;
    let (file, of_one) = (w.file("c.parquet"), trials[0].to_string());
    w.fleet(&["samples", "nightly"]).await.expect("lists");
    w.fleet(&["samples", "nightly", "--parquet", &file]).await.expect("exports");
    let (rows, metadata) = parquet_rows(&file);
    assert_eq!(rows.len(), 4 + 2, "the oldest file is of a running attempt and stays");
    let removed = &metadata["netscore.removed"];
    assert!(removed.contains(&of_one) && removed.contains("--keep-samples 40h"), "{removed}");
    let message = w.refused(&["samples", "nightly", "--trial", &of_one, "--csv", &file]).await;
    assert!(message.contains("were removed on 20") && message.contains("--keep-samples 40h"), "{message}");

    let url = format!("http://{}", w.running.address);
    let mut client = client::connect(&url).await.expect("connects");
    let request = v1::TrialSamplesRequest { trial: Some((&trials[0]).into()), attempt: 1 };
    let status = client.trial_samples(request.clone()).await.expect_err("refused");
    assert!(status.message().contains("were removed on 20"), "{status}");
    w.fleet(&["report", "nightly", "--html", &w.file("r.html")]).await.expect("a report is one without traces, too");

    // After another start it is still known, and what comes late is stored and given out.
    let w = w.restart().await;
    let url = format!("http://{}", w.running.address);
    let mut client = client::connect(&url).await.expect("connects");
    assert!(client.trial_samples(request.clone()).await.is_err());
    let mut agent = AgentsClient::connect(url).await.expect("connects");
    let late = batch(&trials[0], Attempt::FIRST, 7..8);
    let mut acks = agent.samples(tokio_stream::iter([late.clone()])).await.expect("streams").into_inner();
    assert_eq!(acks.message().await.expect("an answer").expect("one").number, 7);
    let mut batches = client.trial_samples(request).await.expect("streams").into_inner();
    assert_eq!(batches.message().await.expect("reads"), Some(late));
    w.running.stop().await;
}

#[test]
fn many_rows_are_several_row_groups() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("many.parquet");
    let mut sink = Parquet::begin(Out::file(&path).expect("begins"), "many").expect("begins");
    let row = |number: u64| rows::Row {
        trial: "t",
        cell: "c",
        attempt: u32::MAX,
        number,
        monotonic_ns: u64::MAX - number,
        unix_us: -1,
        series: "gpu_power_milliwatts",
        channel: u16::MAX,
        value: number as f64,
        raw: i64::MIN,
    };
    (0..300_000).for_each(|n| sink.row(&row(n)).expect("writes"));
    assert!(!path.exists(), "not before it is finished");
    sink.finish(&Missing::default()).expect("finishes");
    let reader = SerializedFileReader::new(std::fs::File::open(&path).expect("there")).expect("a Parquet file");
    assert_eq!(reader.num_row_groups(), 3);
    let (rows, _) = parquet_rows(&path.display().to_string());
    assert_eq!(rows.len(), 300_000);
    let last = fields(&rows[299_999]);
    assert_eq!(last[2..5], [Field::UInt(u32::MAX), Field::ULong(299_999), Field::ULong(u64::MAX - 299_999)]);
    assert_eq!(
        last[5..8],
        [Field::TimestampMicros(-1), Field::Str("gpu_power_milliwatts".into()), Field::UShort(u16::MAX)]
    );
    assert_eq!(last[8..], [Field::Double(299_999.0), Field::Long(i64::MIN)]);
}
