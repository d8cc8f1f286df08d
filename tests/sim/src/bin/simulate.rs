//! Runs many seeds of the simulation, and says what happened in them.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use fleet_sim::{Failure, Faults, explain, many, one};

/// Simulates a fleet under faults, on virtual time, one world per seed.
///
/// A seed that breaks a promise is told with its log, and the exit code is 1. Put it into tests/regressions/seeds.txt,
/// so that it is always run.
#[derive(Parser)]
#[command(after_help = "Examples:\n  simulate --seeds 10000\n  simulate --seed 1234 --log")]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this one.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// With --seed: print its log also if it keeps all promises.
    #[arg(long, requires = "seed")]
    log: bool,
    /// How many at a time; by default as many as there are CPUs.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let began = Instant::now();
    if let Some(seed) = options.seed {
        if let Some(failure) = explain(seed) {
            return tell(&failure);
        }
        if options.log {
            one(seed, Faults::ALL, true).2.iter().for_each(|line| println!("{line}"));
        }
        println!("seed {seed} keeps all promises");
        return ExitCode::SUCCESS;
    }
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let outcome = many(options.first, options.seeds, threads);
    let seconds = began.elapsed().as_secs_f64();
    for (what, n) in outcome.tally.iter() {
        println!("{n:>12}  {what}");
    }
    println!(
        "{} seeds in {seconds:.1} s on {threads} threads: {:.0} seeds/s",
        outcome.seeds,
        outcome.seeds as f64 / seconds
    );
    match &outcome.failure {
        Some(failure) => tell(failure),
        None => ExitCode::SUCCESS,
    }
}

fn tell(failure: &Failure) -> ExitCode {
    failure.log.iter().for_each(|line| println!("{line}"));
    println!("seed {} breaks a promise: {}", failure.seed, failure.violation);
    println!("faults that it needs: {}", failure.faults);
    println!("once more: make simulate SEED={}", failure.seed);
    ExitCode::FAILURE
}
