//! The agent's command line.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fleet_agent::ask;
use fleet_agent::daemon;
use fleet_agent::device::{self, DeviceLock, Host, Label, LockError, Nvidia, Slot, default_lock_dir};
use fleet_agent::doctor::{self, Level};
use fleet_agent::meter::POWERCAP;
use fleet_agent::profile;
use fleet_agent::verify;
use fleet_common::profile::Request;
use fleet_common::units::{Bytes, duration};
use fleet_common::verify::Verdict;
use fleet_common::worker::{JobDevice, Merged};
use fleet_observe::log;
use tokio::sync::watch;

/// Runs the trials of NetScore Fleet on this machine: one worker process per device, metered, under a memory budget.
#[derive(Debug, Parser)]
#[command(name = "fleet-agent", version, after_help = "Exit codes: 0 success; 1 failure; 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Asks a coordinator for trials and runs them until it is stopped (Ctrl-C or SIGTERM ends it tidily).
    #[command(
        after_help = "Example: fleet-agent run --coordinator http://192.168.1.10:7070 --data ~/data --weights ~/weights"
    )]
    Run(Run),
    /// Shows what this machine has (devices, libtorch, CUDA, meters, budget, data), what is missing, and how to get it.
    #[command(after_help = "Example: fleet-agent doctor --data ~/data\nExit code 1 when no trial could run here.")]
    Doctor(Doctor),
    /// Runs reference folders (another implementation's inputs, outputs, gradients and training steps) through ours and
    /// shows the largest differences.
    #[command(
        after_help = "Example: fleet-agent verify tests/fixtures/*\nExit codes: 0 all within their tolerance; 1 something is not; 2 a folder cannot be run."
    )]
    Verify(Verify),
    /// Measures one training step: what each block keeps and costs, and how the step goes under each checkpointing
    /// strategy.
    #[command(
        after_help = "Example: fleet-agent profile vit_small_patch16_224 --budget 500MiB --svg memory.svg\nThe weights are fresh and the images random; neither changes memory. Exit codes: 0 a step ran; 1 none did, or the worker failed; 2 wrong usage."
    )]
    Profile(Profile),
    /// Adds an adapter (a folder in HF PEFT's layout, from here or from Python) to the weights that it was trained on.
    #[command(
        after_help = "Example: fleet-agent merge my-adapter --base weights/vit_small_patch16_224.safetensors --out merged/vit_small_patch16_224.safetensors\nThe result serves as initial weights. Exit codes: 0 written; 2 the adapter or the weights cannot be used."
    )]
    Merge(Merge),
}

/// How devices are found and kept apart.
#[derive(Debug, Args)]
struct Devices {
    /// The worker program [default: fleet-worker beside this program]
    #[arg(long, env = "FLEET_WORKER", value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Folder of the device locks, which all agents of a machine must share
    /// [default: in the system's folder for temporary files]
    #[arg(long, env = "FLEET_LOCK_DIR", value_name = "DIR")]
    lock_dir: Option<PathBuf>,
    /// NVIDIA's management library, if it is not in the usual place
    #[arg(long, env = "FLEET_NVML", value_name = "FILE")]
    nvml: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Machine {
    /// Folder with data sets: cifar-100-binary/ (or its .tar.gz), dtd/, textures/
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Folder with initial weights, one BACKBONE.safetensors (or .pth, .pth.tar, .bin) each; without it training starts
    /// from scratch
    #[arg(long, env = "FLEET_WEIGHTS", value_name = "DIR")]
    weights: Option<PathBuf>,
    #[command(flatten)]
    devices: Devices,
    /// Where the kernel shows the CPU packages' energy counters
    #[arg(long, env = "FLEET_POWERCAP", value_name = "DIR", default_value = POWERCAP)]
    powercap: PathBuf,
}

#[derive(Debug, Args)]
struct Run {
    /// Address of the coordinator
    #[arg(long, env = "FLEET_COORDINATOR", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    coordinator: String,
    /// Folder for this agent's own files
    #[arg(long, env = "FLEET_AGENT_STATE", value_name = "DIR", default_value = "fleet-state/agent")]
    state: PathBuf,
    /// Devices to offer, such as cpu or cuda:0 [default: all GPUs, or the CPU where there is none]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    devices: Vec<String>,
    /// Sets this machine apart from others with the same device: appended to the hardware class of its slots, as in
    /// "AMD EPYC, 2 CPUs [TEXT]", so that its results are not averaged with theirs. For what a device's name does not
    /// say: a power limit, a cooler, a memory speed
    #[arg(long, value_name = "TEXT")]
    label: Option<Label>,
    /// Threads per worker [default: all CPUs, shared among the devices]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Seconds between states that an interrupted trial goes on from; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    save_every: u64,
    /// Space for the states of interrupted trials; those interrupted longest ago go first
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    state_space: Bytes,
    /// Seconds of rest for a device after each trial, so that one does not heat the next
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    cool_down: u64,
    /// End when standard input ends: for programs that start an agent
    #[arg(long)]
    exit_with_parent: bool,
    /// Address where Prometheus reads /metrics, and whoever watches over programs /healthz, such as 127.0.0.1:9465.
    /// Whoever reaches it can read what runs here [default: neither is served]
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
    #[command(flatten)]
    log: log::Options,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Args)]
struct Doctor {
    /// Print JSON (schema fleet.doctor/1) instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Args)]
struct Verify {
    /// Reference folders: config.json, io.safetensors, and weights.safetensors where there are stored weights
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Print JSON (schema fleet.verify/1) instead of text
    #[arg(long)]
    json: bool,
    /// Name only what is beyond its tolerance
    #[arg(long)]
    brief: bool,
    /// The worker program [default: fleet-worker beside this program]
    #[arg(long, env = "FLEET_WORKER", value_name = "FILE")]
    worker: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Profile {
    #[command(flatten)]
    options: profile::Options,
    #[command(flatten)]
    devices: Devices,
}

#[derive(Debug, Args)]
struct Merge {
    /// The adapter's folder: adapter_config.json and adapter_model.safetensors
    #[arg(value_name = "DIR")]
    adapter: PathBuf,
    /// The weights that the adapter was trained on: safetensors, or a checkpoint of torch.save
    #[arg(long, value_name = "FILE")]
    base: PathBuf,
    /// Where to write the merged weights, as safetensors
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The worker program [default: fleet-worker beside this program]
    #[arg(long, env = "FLEET_WORKER", value_name = "FILE")]
    worker: Option<PathBuf>,
}

/// The worker program: the one named, or the one beside this program.
fn worker(named: Option<&PathBuf>) -> PathBuf {
    named.cloned().unwrap_or_else(|| std::env::current_exe().unwrap_or_default().with_file_name("fleet-worker"))
}

impl Devices {
    fn worker(&self) -> PathBuf {
        worker(self.worker.as_ref())
    }

    fn lock_dir(&self) -> PathBuf {
        self.lock_dir.clone().unwrap_or_else(default_lock_dir)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match &cli.command {
        Command::Run(run) => run.log.log_format,
        _ => log::Format::Text,
    };
    log::start(format, "info");
    let outcome = match cli.command {
        Command::Run(run) => start(run),
        Command::Doctor(doctor) => return examine(&doctor),
        Command::Verify(verify) => return compare(&verify),
        Command::Merge(asked) => return merge(&asked),
        Command::Profile(asked) => return measure(&asked),
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
    let options = daemon::Options {
        coordinator: run.coordinator,
        state: run.state,
        worker: run.machine.devices.worker(),
        lock_dir: run.machine.devices.lock_dir(),
        data: run.machine.data,
        weights: run.machine.weights,
        devices: run.devices,
        label: run.label,
        threads: run.threads,
        nvml: run.machine.devices.nvml,
        powercap: run.machine.powercap,
        save_every: Duration::from_secs(run.save_every),
        state_space: run.state_space.0,
        metrics: run.metrics,
        cool_down: Duration::from_secs(run.cool_down),
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
    let nvidia = Nvidia::open(asked.devices.nvml.as_deref());
    let boards = device::all(&host, nvidia.as_ref(), &asked.devices.worker());
    let slots = device::choose(boards, options.device.as_slice()).map_err(|e| e.to_string())?;
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
    let document = verify::verify(&worker(asked.worker.as_ref()), &asked.folders, |dir| {
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

fn examine(doctor: &Doctor) -> ExitCode {
    let machine = &doctor.machine;
    let diagnosis = doctor::examine(&doctor::Options {
        data: machine.data.clone(),
        weights: machine.weights.clone(),
        worker: machine.devices.worker(),
        lock_dir: machine.devices.lock_dir(),
        nvml: machine.devices.nvml.clone(),
        powercap: machine.powercap.clone(),
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
