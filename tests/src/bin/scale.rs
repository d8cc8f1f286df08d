//! `make bench-fleet`: hundreds of simulated agents over real connections against one `fleet serve`, with and without
//! certificates; up to a million trials; restarting. Prints each figure beside its target, and writes the table.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fleet_tests::bench::Machine;
use fleet_tests::scale::{Agents, Found, Pace, Page, Stage, Target, campaign};

/// What the authors of HyperQueue say of it in the README of github.com/It4innovations/hyperqueue: wall time of its server
/// per task, without a record of each that is durable before it is confirmed.
const HYPERQUEUE: &str = "HyperQueue: below 0.1 ms per task";

/// Measures a coordinator under many agents and many trials.
///
/// Example: scale --agents 50 --seconds 5 --only plain
#[derive(Debug, Parser)]
struct Arguments {
    /// Simulated agents, with one slot each
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    agents: u64,
    /// How long each figure is measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Trials of the largest campaign
    #[arg(long, default_value_t = 1_000_000)]
    trials: usize,
    /// This part alone; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// The coordinator's program: the one beside this program when absent
    #[arg(long)]
    fleet: Option<PathBuf>,
    /// Where the table goes as Markdown: nowhere when absent
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Agents without certificates
    Plain,
    /// Agents with certificates
    Tls,
    /// From ten thousand to the largest number of trials
    Sizes,
    /// From a start to an answer, with 100,000 finished trials
    Restart,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("scale: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), String> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("fleet"));
    let program = arguments.fleet.clone().or_else(beside).filter(|p| p.is_file());
    let program = program.ok_or("fleet is not there: run `make build`, or name it with --fleet")?;
    let (machine, load) = (Machine::here(2), Machine::load());
    println!("{}; load at the start: {load:.1}", machine.hardware());
    let wants = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut page = Page::default();
    if wants(Part::Plain) {
        at_work(&mut page, arguments, &program, false).await?;
    }
    if wants(Part::Tls) {
        at_work(&mut page, arguments, &program, true).await?;
    }
    if wants(Part::Sizes) {
        sizes(&mut page, arguments, &program).await?;
    }
    if wants(Part::Restart) {
        restart(&mut page)?;
    }
    println!("{} targets missed", page.missed());
    if let Some(path) = &arguments.write {
        let text = page.markdown(&machine, load, &command(), &today());
        std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Agents at a pace of 1,000 trials per second, then as fast as everything can.
async fn at_work(page: &mut Page, arguments: &Arguments, program: &Path, encrypted: bool) -> Result<(), String> {
    let time = Duration::from_secs(arguments.seconds);
    let stage = Stage::set(program, encrypted).await?;
    // More than can be done, so that nobody waits for work.
    let trials = (arguments.seconds as usize + 4) * (1_000 + 4_000);
    stage.submit(campaign("fleet", trials.next_multiple_of(20))?).await?;
    let agents = Agents::connect(&stage, arguments.agents as usize).await?;
    let n = agents.count();
    let with = if encrypted { "mutual TLS, " } else { "" };
    if let Some(joined) = agents.joined {
        let ms = joined.as_secs_f64() * 1e3 / n as f64;
        page.add(&format!("{with}a certificate for an agent"), ms, "ms", "one after the other", Target::None);
    }
    let what = format!("{with}{n} agents connect and introduce themselves");
    page.add(&what, agents.introduced.as_secs_f64(), "s", "all at once", Target::None);
    let paced = Found::measure(&stage, &agents, Pace::PerSecond(1_000.0), time).await?;
    let what = |figure: &str| format!("{with}{n} agents, 1,000 trials/s asked for: {figure}");
    page.add(&what("lease, p50"), paced.lease.p50, "ms", "", Target::None);
    page.add(&what("lease, p99"), paced.lease.p99, "ms", "", Target::Below(50.0));
    page.add(&what("confirmation of a record, p99"), paced.report.p99, "ms", "", Target::None);
    page.add(&what("completed"), paced.per_second, "trials/s", "", Target::None);
    page.add(&what("coordinator's CPU time"), paced.cpu_ms, "ms per trial", "", Target::Beside(HYPERQUEUE));
    let flat = Found::measure(&stage, &agents, Pace::Flat, time).await?;
    let what = |figure: &str| format!("{with}{n} agents, trials that take no time: {figure}");
    page.add(&what("completed"), flat.per_second, "trials/s", "", Target::AtLeast(1_000.0));
    let waits = format!("p50 {:.0} ms: every agent waits for the others", flat.lease.p50);
    page.add(&what("lease, p99"), flat.lease.p99, "ms", &waits, Target::None);
    page.add(&what("coordinator's CPU time"), flat.cpu_ms, "ms per trial", "", Target::Beside(HYPERQUEUE));
    let beside = "the agents have the rest of the cores";
    page.add(&what("coordinator's share"), flat.cores, "cores", beside, Target::None);
    page.add(&what("heartbeats without an answer"), agents.missed() as f64, "in all", "", Target::None);
    page.add(&what("most memory"), flat.resident as f64 / f64::from(1 << 20), "MiB", "", Target::None);
    Ok(())
}

/// One campaign of ever more trials: planning it, and working on it.
async fn sizes(page: &mut Page, arguments: &Arguments, program: &Path) -> Result<(), String> {
    let time = Duration::from_secs(arguments.seconds);
    let mut first = None;
    let sizes = [10_000, 100_000, 1_000_000].into_iter().filter(|n| *n < arguments.trials).chain([arguments.trials]);
    for size in sizes {
        let stage = Stage::set(program, false).await?;
        let toml = campaign("large", size)?;
        let (trials, took) = stage.submit(toml).await?;
        if trials != size as u64 {
            return Err(format!("expected {size} trials, found {trials}"));
        }
        let planned = stage.serving.cost();
        let of_million = |target| if size == 1_000_000 { target } else { Target::None };
        let what = |figure: &str| format!("{size} trials: {figure}");
        page.add(
            &what("planned, checked and durable"),
            took.as_secs_f64(),
            "s",
            "until `submit` is answered",
            of_million(Target::Below(20.0)),
        );
        let gib = planned.resident as f64 / f64::from(1 << 30);
        page.add(&what("most memory until then"), gib, "GiB", "", of_million(Target::Below(1.5)));
        let agents = Agents::connect(&stage, arguments.agents as usize).await?;
        let pace = Pace::PerSecond((size as f64 / 3.0 / (arguments.seconds + 2) as f64).min(500.0));
        let found = Found::measure(&stage, &agents, pace, time).await?;
        let per = found.cpu_ms;
        let times = per / *first.get_or_insert(per);
        let note = format!("{times:.2} of that with the fewest; {:.0} trials/s", found.per_second);
        page.add(&what("coordinator's CPU time, lease to record"), per, "ms per trial", &note, Target::None);
        page.add(&what("lease, p99"), found.lease.p99, "ms", "", Target::Below(50.0));
        let (_, status) = stage.status().await?;
        page.add(&what("status of everything"), status.as_secs_f64() * 1e3, "ms", "", Target::None);
        let gib = stage.serving.cost().resident as f64 / f64::from(1 << 30);
        page.add(&what("most memory"), gib, "GiB", "", Target::None);
    }
    Ok(())
}

/// `cargo bench --bench restart` as a part of this table.
fn restart(page: &mut Page) -> Result<(), String> {
    let arguments = ["bench", "--locked", "--quiet", "-p", "fleet-coordinator", "--bench", "restart"];
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let output = command.args(arguments).args(["--", "100000", "--json"]).output().map_err(|e| e.to_string())?;
    let failed = |why: String| format!("the restart bench {why}: {}", String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    let (slowest, resident) = restarts(&output.stdout).map_err(failed)?;
    page.add("restart to serving, 100,000 finished trials", slowest, "s", "slowest of three", Target::Below(2.0));
    page.add("restart to serving: most memory", resident / f64::from(1 << 20), "MiB", "", Target::None);
    Ok(())
}

/// The slowest restart in seconds, and the most memory in bytes, of what the bench tells.
fn restarts(told: &[u8]) -> Result<(f64, f64), String> {
    let document: serde_json::Value = serde_json::from_slice(told).map_err(|e| format!("did not tell: {e}"))?;
    let starts: Option<Vec<f64>> = document["restart_seconds"]
        .as_array()
        .and_then(|starts| starts.iter().map(serde_json::Value::as_f64).collect())
        .filter(|starts: &Vec<f64>| !starts.is_empty());
    let starts = starts.ok_or("told no restart_seconds")?;
    let resident = document["peak_resident_bytes"].as_f64().ok_or("told no peak_resident_bytes")?;
    Ok((starts.into_iter().fold(0.0, f64::max), resident))
}

/// The command that people type for what is running.
fn command() -> String {
    let options: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--write")).collect();
    match options.join(" ").as_str() {
        "" => "make bench-fleet".to_owned(),
        options => format!("make bench-fleet OPTIONS=\"{options}\""),
    }
}

/// Today's date in UTC, as 2026-01-31.
fn today() -> String {
    let said = Command::new("date").args(["-u", "+%F"]).output();
    said.map_or_else(|_| "an unknown day".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_that_was_not_measured_meets_no_target() {
        let good = br#"{"restart_seconds": [0.5, 1.5, 1.0], "peak_resident_bytes": 1048576}"#;
        assert_eq!(restarts(good), Ok((1.5, 1_048_576.0)));
        let wrong: [&[u8]; 5] = [
            b"",
            b"{}",
            br#"{"restart_seconds": [], "peak_resident_bytes": 1}"#,
            br#"{"restart_seconds": [0.5, null], "peak_resident_bytes": 1}"#,
            br#"{"restart_seconds": [0.5]}"#,
        ];
        for told in wrong {
            assert!(restarts(told).is_err(), "{}", String::from_utf8_lossy(told));
        }
    }
}
