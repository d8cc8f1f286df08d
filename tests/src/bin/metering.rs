//! `make bench-metering`: what reading meters, keeping samples and sending them costs an agent, as CPU time of its whole
//! process beside a trial that trains. The target is 1 % of one core at 10 readings per second.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fleet_tests::bench::Machine;
use fleet_tests::load::cpu_of;
use fleet_tests::{Agent, Campaign, Coordinator, Fleet, Power, long};

/// Measures an agent's CPU time while a trial trains.
#[derive(Debug, Parser)]
struct Arguments {
    /// For how long, at each pace
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
}

/// Of one core.
const TARGET: f64 = 0.01;

fn main() -> ExitCode {
    let seconds = Duration::from_secs(Arguments::parse().seconds);
    println!("{}; RAPL, hwmon and a plug (in files), the worker's memory", Machine::here(1).hardware());
    println!("readings/s  agent's CPU, % of a core  samples/s  of them from meters");
    let mut worst_at_ten = 0.0;
    for hertz in [10, 20, 50] {
        let Some(row) = measure(hertz, seconds) else {
            eprintln!("metering: the agent's CPU time cannot be read; this needs Linux' /proc");
            return ExitCode::FAILURE;
        };
        println!("{hertz:>10}  {:>24.2}  {:>9.0}  {:>19.0}", row.share * 100.0, row.samples, row.metered);
        if hertz == 10 {
            worst_at_ten = row.share;
        }
    }
    println!("target: less than {:.0} % of one core at 10 readings/s", TARGET * 100.0);
    if worst_at_ten < TARGET { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Row {
    share: f64,
    samples: f64,
    metered: f64,
}

fn measure(hertz: u32, time: Duration) -> Option<Row> {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let hwmon = fleet.path().join("hwmon/hwmon0");
    std::fs::create_dir_all(&hwmon).ok()?;
    for (file, text) in [("name", "amdgpu\n"), ("power1_average", "87000000\n"), ("temp1_input", "51000\n")] {
        std::fs::write(hwmon.join(file), text).ok()?;
    }
    let plug = fleet.file("watts", "142.0\n");
    let file = long(&fleet, "metering", 1_000_000);
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    fleet.fleet(&["submit", &file, "--coordinator", &coordinator.url]).ended_with(0);
    let hertz_text = hertz.to_string();
    let folder = |path: &Path| path.display().to_string();
    let agent = Agent::start(
        &fleet,
        &coordinator.url,
        "agent",
        &[
            "--powercap",
            &folder(power.dir()),
            "--hwmon",
            &folder(&fleet.path().join("hwmon")),
            "--wall-meter",
            &folder(&plug),
            "--meter-hertz",
            &hertz_text,
            "--threads",
            "1",
        ],
    );
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "metering" };
    campaign.wait_for_step(50);
    let (cpu, begun) = (cpu_of(agent.pid())?, Instant::now());
    let before = campaign.samples().first().map_or(0, |(_, s)| s.len());
    std::thread::sleep(time);
    let (spent, took) = (cpu_of(agent.pid())? - cpu, begun.elapsed().as_secs_f64());
    let after = campaign.samples().first().map_or(0, |(_, s)| s.len());
    let samples = (after - before) as f64 / took;
    // The worker tells its allocator's bytes ten times a second.
    Some(Row { share: spent / took, samples, metered: samples - 10.0 })
}
