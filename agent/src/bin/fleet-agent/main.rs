//! The agent's command line.

mod args;
mod joining;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use args::{Calibrate, Characterise, Cli, Command, Doctor, Merge, Profile, Run, Verify, worker};
use clap::Parser as _;
use fleet_agent::ask;
use fleet_agent::calibrate::{self, Task};
use fleet_agent::daemon;
use fleet_agent::device::{self, DeviceLock, Host, LockError, Nvidia, Slot};
use fleet_agent::doctor::{self, Level};
use fleet_agent::meter::{self, Cache};
use fleet_agent::profile;
use fleet_agent::verify;
use fleet_common::energy::SensorTerm;
use fleet_common::profile::Request;
use fleet_common::units::duration;
use fleet_common::verify::Verdict;
use fleet_common::worker::{JobDevice, Merged};
use fleet_observe::log;
use tokio::sync::watch;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match &cli.command {
        Command::Run(run) => run.log.log_format,
        _ => log::Format::Text,
    };
    log::start(format, "info");
    let outcome = match cli.command {
        Command::Run(run) => start(*run),
        Command::Join(asked) => joining::join(asked),
        Command::Doctor(doctor) => return examine(&doctor),
        Command::Verify(verify) => return compare(&verify),
        Command::Merge(asked) => return merge(&asked),
        Command::Profile(asked) => return measure(&asked),
        Command::Calibrate(asked) => return calibrate(&asked),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::last_words(format, &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(run: Run) -> anyhow::Result<()> {
    let coordinator = joining::before(&run)?;
    let options = daemon::Options {
        content_cache: run.cache.unwrap_or_else(|| run.state.join("cache")),
        content_space: run.cache_space,
        content_from: run.content_from,
        coordinator,
        state: run.state,
        worker: run.machine.devices.worker(),
        lock_dir: run.machine.devices.lock_dir(),
        data: run.machine.data,
        weights: run.machine.weights,
        devices: run.devices,
        label: run.label,
        tags: run.tag.into_iter().collect(),
        limits: run.limit_memory,
        threads: run.threads,
        nvml: run.machine.devices.nvml,
        meters: run.machine.meters.places(),
        meter_every: Duration::from_secs_f64(1.0 / run.meter_hertz),
        characterise: run.characterise == Characterise::Auto,
        meter_cache: run.machine.meters.cache_dir(),
        save_every: Duration::from_secs(run.save_every),
        state_space: run.state_space.0,
        artifacts: run.artifacts,
        artifacts_rate: run.artifacts_rate.0,
        metrics: run.metrics,
        cool_down: Duration::from_secs(run.cool_down),
        leave_when_idle: run.leave_when_idle,
    };
    let (sender, stopping) = watch::channel(false);
    if run.exit_with_parent {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while matches!(std::io::stdin().read(&mut buffer), Ok(n) if n > 0) {}
            sender.send_replace(true);
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        tokio::spawn(stop_on_signal(sender));
        daemon::run(options, stopping).await
    })?;
    // Meter threads may be in a driver call; nobody waits for them.
    runtime.shutdown_background();
    Ok(())
}

/// The first signal ends the daemon tidily, a second one at once.
async fn stop_on_signal(sender: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    for round in 0..2 {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if round == 1 {
            std::process::exit(130);
        }
        tracing::info!("stopping: ending workers and giving their leases back");
        sender.send_replace(true);
    }
}

fn merge(asked: &Merge) -> ExitCode {
    if asked.out.exists() {
        eprintln!("error: {} is there already; name another file, or remove it", asked.out.display());
        return ExitCode::from(2);
    }
    let mut command = std::process::Command::new(worker(asked.worker.as_ref()));
    command.arg("--merge").args([&asked.adapter, &asked.base, &asked.out]);
    let answer: Result<Result<Merged, String>, String> = ask::ask(&mut command);
    match answer.and_then(|merged| merged) {
        Ok(Merged { layers, replaced }) => {
            println!("{}: adapters of {layers} layers added; replaced: {}", asked.out.display(), replaced.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn measure(asked: &Profile) -> ExitCode {
    let failed = |code: u8, error: String| {
        eprintln!("error: {error}");
        ExitCode::from(code)
    };
    let (slot, request) = match prepare(asked) {
        Ok(ready) => ready,
        Err(error) => return failed(2, error),
    };
    let owner = format!("fleet-agent profile, process {}", std::process::id());
    // Held to the end: two at work on one device would measure each other.
    let lock_dir = asked.devices.lock_dir();
    let _lock = match DeviceLock::take(&lock_dir, &slot.id, &owner) {
        Ok(lock) => lock,
        Err(LockError::Taken { slot, owner }) => {
            let what = "two at work on it would measure each other";
            return failed(1, format!("{slot} is in use by {owner}: {what}. Stop that, or name another --device"));
        }
        Err(error) => return failed(1, error.to_string()),
    };
    let mut progress = Progress::new(format!("profiling {} on {}", asked.options.backbone.name(), slot.id));
    let answer = profile::profile(&asked.devices.worker(), &slot, request, |waited| progress.waits(waited));
    progress.ends();
    let document = match answer {
        Ok(document) => document,
        Err(error) => return failed(1, error),
    };
    if asked.options.json {
        println!("{}", serde_json::to_string_pretty(&document).expect("our own types are JSON"));
    } else {
        print!("{}", profile::text(&document));
    }
    if let Some(path) = &asked.options.svg {
        if let Err(error) = std::fs::write(path, profile::picture(&document)) {
            return failed(1, format!("the picture cannot be written to {}: {error}", path.display()));
        }
        eprintln!("Picture: {}", path.display());
    }
    if document.any_ran() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The device and the request; errors are in words.
fn prepare(asked: &Profile) -> Result<(Slot, Request), String> {
    let options = &asked.options;
    // Found out now rather than after minutes.
    let folder = options.svg.as_deref().and_then(Path::parent).filter(|f| !f.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|f| !f.is_dir()) {
        return Err(format!(
            "--svg: expected a file in a folder that is there, found no folder {}; make it first",
            folder.display()
        ));
    }
    let host = Host::read();
    // What the options alone show to be wrong needs no device.
    options.request(JobDevice::Cpu, 1)?;
    let (slots, _) = slots(&asked.devices, options.device.as_slice(), &host)?;
    let slot = slots.into_iter().next().ok_or("this machine has no device")?;
    let device = if slot.gpu.is_some() { JobDevice::Cuda } else { JobDevice::Cpu };
    let request = options.request(device, options.threads.unwrap_or(host.cpus).max(1))?;
    Ok((slot, request))
}

/// What is said on standard error while one waits: a line that is written anew in a terminal, a few lines elsewhere.
struct Progress {
    what: String,
    terminal: bool,
    /// When to say something next.
    next: Duration,
}

impl Progress {
    /// Shorter waits need no words.
    const PATIENCE: Duration = Duration::from_secs(2);
    /// Between lines that stay.
    const PAUSE: Duration = Duration::from_secs(30);

    fn new(what: String) -> Self {
        Self { what, terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()), next: Self::PATIENCE }
    }

    fn waits(&mut self, waited: Duration) {
        if waited < self.next {
            return;
        }
        let words = format!("{}: {}", self.what, duration(waited.as_secs_f64()));
        if self.terminal {
            eprint!("\r{words}  ");
        } else {
            eprintln!("{words}");
            self.next = waited + Self::PAUSE;
        }
    }

    fn ends(&self) {
        if self.terminal {
            // The line is cleared, so that only results stay.
            eprint!("\r\x1b[K");
        }
    }
}

fn compare(asked: &Verify) -> ExitCode {
    // Full-size references take seconds.
    let says = std::io::IsTerminal::is_terminal(&std::io::stderr()) && !asked.json;
    let gpu = match asked.device.as_str() {
        // Needs nothing of this machine.
        "cpu" => None,
        name => match slots(&asked.devices, &[name.to_owned()], &Host::read()) {
            Ok((slots, _)) => slots.into_iter().next().and_then(|slot| slot.gpu),
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(2);
            }
        },
    };
    let document = verify::verify(&asked.devices.worker(), gpu.as_ref(), &asked.folders, |dir| {
        if says {
            eprintln!("running {}", dir.display());
        }
    });
    if asked.json {
        println!("{}", serde_json::to_string_pretty(&document).expect("our own types are JSON"));
    } else {
        print!("{}", verify::text(&document, asked.brief));
    }
    let any = |is: fn(&Verdict) -> bool| document.folders.iter().any(|f| is(&f.verdict));
    if any(|v| matches!(v, Verdict::CannotRun { .. })) {
        ExitCode::from(2)
    } else if any(|v| matches!(v, Verdict::Failed(_))) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The devices that are named, or all that trials would run on; errors are in words.
fn slots(devices: &args::Devices, named: &[String], host: &Host) -> Result<(Vec<Slot>, Option<Arc<Nvidia>>), String> {
    let nvidia = Nvidia::open(devices.nvml.as_deref());
    let boards = device::all(host, nvidia.as_ref(), &devices.worker());
    let slots = device::choose(boards, named).map_err(|e| e.to_string())?;
    Ok((slots, nvidia.ok().map(Arc::new)))
}

fn calibrate(asked: &Calibrate) -> ExitCode {
    let host = Host::read();
    let (slots, nvidia) = match slots(&asked.devices, asked.device.as_slice(), &host) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let task = match (asked.factor, asked.interval, asked.forget) {
        (Some(factor), Some(relative), _) => Task::Compare(SensorTerm { factor, relative, basis: asked.basis.clone() }),
        (_, _, true) => Task::Forget,
        _ => Task::Measure { idle_seconds: asked.seconds },
    };
    let options = calibrate::Options {
        places: asked.meters.places(),
        cache: asked.meters.cache_dir(),
        lock_dir: asked.devices.lock_dir(),
        worker: asked.devices.worker(),
        task,
    };
    let done = calibrate::calibrate(&options, &slots, &host, nvidia.as_ref(), |words| eprintln!("{words}"));
    match asked.json {
        true => println!("{}", serde_json::to_string_pretty(&done).expect("our own types are JSON")),
        false => print!("{}", done.text()),
    }
    if done.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn look_at_meters(doctor: &Doctor) -> ExitCode {
    let (machine, host) = (&doctor.machine, Host::read());
    // Without the worker, too: its opinion matters to trials, not to meters.
    let nvidia = Nvidia::open(machine.devices.nvml.as_deref());
    let boards = device::described(&host, nvidia.as_ref());
    for board in &boards.left_out {
        eprintln!("{} is left out: {}", board.name, board.why);
    }
    let (cache, places) = (Cache::open(&machine.meters.cache_dir()), machine.meters.places());
    let survey = meter::look(&boards.slots, &host.name, nvidia.ok().map(Arc::new).as_ref(), &places, &cache);
    match doctor.json {
        true => println!("{}", serde_json::to_string_pretty(&survey).expect("our own types are JSON")),
        false => print!("{}", survey.text()),
    }
    ExitCode::SUCCESS
}

fn examine(doctor: &Doctor) -> ExitCode {
    if doctor.meters {
        return look_at_meters(doctor);
    }
    let machine = &doctor.machine;
    let diagnosis = doctor::examine(&doctor::Options {
        data: machine.data.clone(),
        weights: machine.weights.clone(),
        worker: machine.devices.worker(),
        lock_dir: machine.devices.lock_dir(),
        nvml: machine.devices.nvml.clone(),
        meters: machine.meters.places(),
        meter_cache: machine.meters.cache_dir(),
    });
    if doctor.json {
        println!("{}", serde_json::to_string_pretty(&diagnosis).expect("our own types are JSON"));
    } else {
        for f in &diagnosis.findings {
            let mark = match f.level {
                Level::Ok => "ok     ",
                Level::Note => "note   ",
                Level::Problem => "PROBLEM",
            };
            println!("{mark}  {:<16}  {}", f.subject, f.found);
            if let Some(remedy) = &f.remedy {
                println!("{:27}→ {remedy}", "");
            }
        }
        println!();
        println!(
            "{}",
            if diagnosis.is_well() { "Trials can run here." } else { "No trial can run here: see PROBLEM above." }
        );
    }
    if diagnosis.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
