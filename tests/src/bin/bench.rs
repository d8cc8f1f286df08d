//! `make bench`: time and memory of a training step beside Python's, row by row, and tests/bench/RESULTS.md.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use fleet_common::worker::JobDevice;
use fleet_tests::bench::{Images, Machine, Row, Setting, baseline, compare, interpreter, line, matrix, page};

/// Compares a training step of fleet-worker with the same step in timm, peft and torch.
///
/// Example: bench --rows vit_small:8:lora:none,vit_small:8:full:static --rounds 5
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows, as BACKBONE:BATCH:METHOD:CHECKPOINTING with commas between; the whole matrix when absent.
    #[arg(long, value_delimiter = ',', value_parser = Row::parse)]
    rows: Vec<Row>,
    /// How often the two sides take turns in each row.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// One round.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Threads of either side; one per core when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Where either side computes: cpu or cuda.
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: JobDevice,
    /// The interpreter that has timm, peft and torch: that of tests/bench/set-up.sh when absent.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where to write the table.
    #[arg(long)]
    write: Option<PathBuf>,
    /// The worker to measure: the one beside this program when absent.
    #[arg(long)]
    worker: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let python = arguments.python.clone().unwrap_or_else(|| interpreter(&root));
    if arguments.python.is_none() && !python.exists() {
        return Err("Python's side is not set up: run tests/bench/set-up.sh (or `make bench`, which does)".to_owned());
    }
    let worker = match &arguments.worker {
        Some(worker) => worker.clone(),
        None => beside_this().ok_or("this program's own path is unknown: name the worker with --worker")?,
    };
    if !worker.is_file() {
        return Err(format!("{} is not there: run `make build`, or name a worker with --worker", worker.display()));
    }
    let machine_threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let setting = Setting {
        baseline: if arguments.device == JobDevice::Cuda { 0 } else { baseline(&worker)? },
        worker,
        root,
        python,
        device: arguments.device,
        threads: arguments.threads.unwrap_or(machine_threads),
        rounds: if arguments.quick { 1 } else { arguments.rounds },
    };
    let rows = if arguments.rows.is_empty() { matrix() } else { arguments.rows.clone() };
    let images = Images::draw().map_err(|e| format!("the images cannot be written to a temporary folder: {e}"))?;
    let machine = Machine::here(setting.threads);
    eprintln!("bench: {} rows, {} rounds each, on {machine}", rows.len(), setting.rounds);
    let load = Machine::load();
    if load > 0.5 {
        eprintln!("bench: something else is at work here (load {load:.1}): times will be noisy, ratios less so");
    }
    let started = Instant::now();
    let mut done = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        eprintln!("bench: row {} of {}, {row}, after {:.0} s", n + 1, rows.len(), started.elapsed().as_secs_f64());
        let compared = compare(row, &setting, &images, &mut |what| eprintln!("bench:   {what}"))?;
        println!("{}", line(&compared));
        done.push(compared);
        // After each row, so that a comparison that is interrupted leaves what it has.
        if let Some(file) = &arguments.write {
            write(file, &page(&done, &machine, load, setting.rounds, &command(), &today()))?;
        }
    }
    let missed: Vec<String> = done.iter().filter(|c| !c.missed().is_empty()).map(|c| c.row.to_string()).collect();
    eprintln!("bench: {} rows in {:.0} s, {} missed", done.len(), started.elapsed().as_secs_f64(), missed.len());
    for row in missed {
        eprintln!("bench:   missed: {row}");
    }
    Ok(())
}

fn device(text: &str) -> Result<JobDevice, String> {
    match text {
        "cpu" => Ok(JobDevice::Cpu),
        "cuda" => Ok(JobDevice::Cuda),
        _ => Err(format!("expected cpu or cuda, found \"{text}\"")),
    }
}

/// fleet-worker in the folder of this program.
fn beside_this() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.join("fleet-worker"))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|e| format!("{} cannot be written: {e}", file.display()))
}

/// The command that people type for what is running.
fn command() -> String {
    let options: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--write")).collect();
    match options.join(" ").as_str() {
        "" => "make bench".to_owned(),
        options => format!("make bench OPTIONS=\"{options}\""),
    }
}

/// Today's date in UTC, as 2026-01-31.
fn today() -> String {
    let said = Command::new("date").args(["-u", "+%F"]).output();
    said.map_or_else(|_| "an unknown day".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}
