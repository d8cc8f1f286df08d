//! `make bench-samples`: many trials' samples into one coordinator, over real gRPC. Prints what was lost, what it cost
//! and how long acknowledgements took. Fails if a sample is lost, doubled or changed.
//!
//! The coordinator is killed once everything is acknowledged and started again before anything is read back: what an
//! acknowledgement promised must be on the disk.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fleet_tests::bench::Machine;
use fleet_tests::load::{Found, Load, Machines, Serving, Told, check, on_disk, on_loopback, stream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Endpoint;

/// Streams samples of simulated trials into a coordinator and reads them back.
///
/// Example: load --trials 1000 --seconds 60
#[derive(Debug, Parser)]
struct Arguments {
    /// Trials that run at once
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    trials: u64,
    /// Readings of each of the ten series per second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=200))]
    hertz: u64,
    /// For how long
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Do not compress what is sent
    #[arg(long)]
    plain: bool,
    /// The coordinator's program: the one beside this program when absent
    #[arg(long)]
    fleet: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("load: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything is stored as it was sent.
async fn run(arguments: &Arguments) -> Result<bool, String> {
    let Arguments { trials, hertz, seconds, plain, .. } = *arguments;
    let load = Load { trials: trials as usize, hertz, seconds, plain };
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("fleet"));
    let program = arguments.fleet.clone().or_else(beside).filter(|p| p.is_file());
    let program = program.ok_or("fleet is not there: run `make build`, or name it with --fleet")?;
    let folder = tempfile::tempdir().map_err(|e| format!("cannot make a folder: {e}"))?;
    let state = folder.path().join("coordinator");

    let serving = Serving::start(&program, &state)?;
    let machines = Machines::start(&serving.url, &load).await?;
    println!("{}; load at the start: {:.1}", Machine::here(2).hardware(), Machine::load());
    println!(
        "{trials} trials x 10 series x {hertz} Hz for {seconds} s: {} samples/s over {} connections, {}",
        load.per_batch() * trials,
        machines.connections,
        if plain { "not compressed" } else { "zstd" }
    );
    let (before, wire_before) = (serving.cost(), on_loopback());
    let start = Instant::now() + Duration::from_millis(200);
    let mut streams = JoinSet::new();
    for (number, held) in machines.held.iter().enumerate() {
        streams.spawn(stream(held.clone(), number, load, start));
    }
    let mut told = Vec::new();
    let mut broken = 0;
    for outcome in streams.join_all().await {
        match outcome {
            Ok(stream) => told.push(stream),
            Err(why) => {
                broken += 1;
                eprintln!("a stream broke: {why}");
            }
        }
    }
    let took = start.elapsed().as_secs_f64();
    let (after, wire) = (serving.cost(), on_loopback() - wire_before);
    let held = machines.held.clone();
    drop(machines);
    serving.kill();

    let serving = Serving::start(&program, &state)?;
    let endpoint = Endpoint::from_shared(serving.url.clone()).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
    let mut found = Found::default();
    for (number, held) in held.iter().enumerate() {
        found += check(channel.clone(), held, number, &load).await?;
    }
    serving.terminate()?;
    let disk = on_disk(&state.join("samples"));

    let acknowledged: u64 = told.iter().map(|t| t.acknowledged).sum();
    println!(
        "sent {}, acknowledged {acknowledged}, after kill -9 stored {}, lost {}, doubled {}, changed {}; streams \
         that broke: {broken}",
        load.all(),
        found.stored,
        found.lost,
        found.doubled,
        found.changed
    );
    let cpu = after.cpu - before.cpu;
    println!(
        "coordinator: {:.2} CPU s per s, {:.2} CPU s per million samples, at most {:.0} MiB resident",
        cpu / took,
        cpu / (acknowledged.max(1) as f64 / 1e6),
        after.resident as f64 / f64::from(1 << 20)
    );
    println!("acknowledgement: {}", percentiles(&told));
    println!(
        "bytes per sample: {:.2} on the disk, {:.2} on the wire (both directions, with heartbeats and all headers)",
        disk as f64 / found.stored.max(1) as f64,
        wire as f64 / acknowledged.max(1) as f64
    );
    Ok(broken == 0 && found == Found { stored: load.all(), ..Found::default() })
}

fn percentiles(told: &[Told]) -> String {
    let mut ms: Vec<f64> = told.iter().flat_map(|t| &t.seconds).map(|s| s * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let at = |share: f64| ms.get(((ms.len() as f64 * share) as usize).min(ms.len().saturating_sub(1)));
    let show = |share| at(share).map_or_else(|| "n/a".to_owned(), |ms| format!("{ms:.0} ms"));
    format!("p50 {}, p99 {}, most {}", show(0.5), show(0.99), show(1.0))
}
