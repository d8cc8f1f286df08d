//! The agent's command line.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fleet_agent::ask;
use fleet_agent::daemon;
use fleet_agent::device::{Label, default_lock_dir};
use fleet_agent::doctor::{self, Level};
use fleet_agent::meter::POWERCAP;
use fleet_agent::profile;
use fleet_agent::verify;
use fleet_common::units::Bytes;
use fleet_common::verify::Verdict;
use fleet_common::worker::{JobDevice, Merged};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

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
    /// Adds an adapter (a folder in HF PEFT's layout, from here or from Python) to the weights that it was trained on.
    #[command(
        after_help = "Example: fleet-agent merge my-adapter --base weights/vit_small_patch16_224.safetensors --out merged/vit_small_patch16_224.safetensors\nThe result serves as initial weights. Exit codes: 0 written; 2 the adapter or the weights cannot be used."
    )]
    Merge(Merge),
    /// Shows what each block of a model keeps and costs, and the memory and time of a training step under each checkpointing
    /// strategy; no data and no campaign are needed.
    #[command(
        after_help = "Example: fleet-agent profile vit_small_patch16_224 --method lora --batch 8 --budget 500MiB\nExit codes: 0 measured; 1 nothing could be measured; 2 wrong usage."
    )]
    Profile(Profile),
}

#[derive(Debug, Args)]
struct Profile {
    /// The backbone, by its name in campaign files
    backbone: String,
    /// The method, with its usual settings
    #[arg(long, default_value = "full")]
    method: String,
    /// Images per step [default: the campaign file's]
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Parts in which a batch goes through the model
    #[arg(long, value_name = "N", default_value_t = 1)]
    micro_batches: u32,
    /// Side of the square input, pixels [default: the backbone's]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<u32>,
    /// Classes of the head
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    classes: u32,
    /// fp32 or bf16
    #[arg(long, default_value = "fp32")]
    precision: String,
    /// Strategies to run steps under [default: none,static, and with a budget adaptive,planned]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    checkpointing: Vec<String>,
    /// Most bytes that tensors may hold, such as 500MiB [default: no cap]
    #[arg(long, value_name = "SIZE")]
    budget: Option<Bytes>,
    /// Share of the budget from which on the adaptive strategy runs blocks again
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    adaptive_ratio: f64,
    /// Share of the budget that the planned strategy leaves free
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    planned_margin: f64,
    /// Steps to time under each strategy
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// cpu, or cuda:N
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: ProfileDevice,
    /// Threads for libtorch [default: all CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Write the memory over one step under each strategy as a picture
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
    /// Print JSON (schema fleet.profile/1) instead of text
    #[arg(long)]
    json: bool,
    /// The worker program [default: fleet-worker beside this program]
    #[arg(long, env = "FLEET_WORKER", value_name = "FILE")]
    worker: Option<PathBuf>,
}

/// A device as `--device` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ProfileDevice {
    Cpu,
    Cuda(String),
}

fn device(text: &str) -> Result<ProfileDevice, String> {
    match text.strip_prefix("cuda:") {
        Some(number) if number.parse::<u32>().is_ok() => Ok(ProfileDevice::Cuda(number.to_owned())),
        _ if text == "cpu" => Ok(ProfileDevice::Cpu),
        _ => Err(format!("expected cpu or cuda:N, found \"{text}\"")),
    }
}

impl Profile {
    /// The options as lines of a campaign file: so that names, defaults and limits are the same, and the messages about them.
    fn toml(&self) -> String {
        let quoted = |text: &str| format!("{text:?}");
        let usual: &[&str] =
            if self.budget.is_some() { &["none", "static", "adaptive", "planned"] } else { &["none", "static"] };
        let strategies: Vec<String> = if self.checkpointing.is_empty() {
            usual.iter().map(|s| quoted(s)).collect()
        } else {
            self.checkpointing.iter().map(|s| quoted(s)).collect()
        };
        let budget = self.budget.map_or_else(|| "\"unlimited\"".to_owned(), |b| b.0.to_string());
        let number = |key: &str, value: Option<u32>| value.map(|v| format!("{key} = {v}\n")).unwrap_or_default();
        format!(
            "name = \"profile\"\nbudget = {budget}\n[matrix]\nmethod = {}\nbackbone = {}\ncheckpointing = [{}]\n\
             dataset = \"textures\"\n[train]\n{}{}micro_batches = {}\nprecision = {}\n\
             [checkpointing.adaptive]\nratio = {:?}\n[checkpointing.planned]\nmargin = {:?}\n",
            quoted(&self.method),
            quoted(&self.backbone),
            strategies.join(", "),
            number("batch", self.batch),
            number("image_size", self.image_size),
            self.micro_batches,
            quoted(&self.precision),
            self.adaptive_ratio,
            self.planned_margin,
        )
    }
}

#[derive(Debug, Args)]
struct Machine {
    /// Folder with data sets: cifar-100-binary/ (or its .tar.gz), dtd/, textures/
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Folder with initial weights, one BACKBONE.safetensors (or .pth, .pth.tar, .bin) each; without it training starts from scratch
    #[arg(long, env = "FLEET_WEIGHTS", value_name = "DIR")]
    weights: Option<PathBuf>,
    /// The worker program [default: fleet-worker beside this program]
    #[arg(long, env = "FLEET_WORKER", value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Folder of the device locks, which all agents of a machine must share [default: in the system's folder for temporary files]
    #[arg(long, env = "FLEET_LOCK_DIR", value_name = "DIR")]
    lock_dir: Option<PathBuf>,
    /// NVIDIA's management library, if it is not in the usual place
    #[arg(long, env = "FLEET_NVML", value_name = "FILE")]
    nvml: Option<PathBuf>,
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

impl Machine {
    fn worker(&self) -> PathBuf {
        worker(self.worker.as_ref())
    }

    fn lock_dir(&self) -> PathBuf {
        self.lock_dir.clone().unwrap_or_else(default_lock_dir)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("FLEET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
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
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(run: Run) -> anyhow::Result<()> {
    let options = daemon::Options {
        coordinator: run.coordinator,
        state: run.state,
        worker: run.machine.worker(),
        lock_dir: run.machine.lock_dir(),
        data: run.machine.data,
        weights: run.machine.weights,
        devices: run.devices,
        label: run.label,
        threads: run.threads,
        nvml: run.machine.nvml,
        powercap: run.machine.powercap,
        save_every: Duration::from_secs(run.save_every),
        state_space: run.state_space.0,
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
    let cells = match profile::cells(&asked.toml(), asked.classes) {
        Ok(cells) => cells,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let (device, gpu) = match &asked.device {
        ProfileDevice::Cpu => (JobDevice::Cpu, None),
        ProfileDevice::Cuda(number) => (JobDevice::Cuda, Some(number.as_str())),
    };
    let request = profile::Request { cells, steps: asked.steps, device, threads: asked.threads.unwrap_or(cpus) };
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) && !asked.json {
        eprintln!("measuring every block in four ways, then {} steps under each strategy …", asked.steps + 1);
    }
    let profile = match profile::profile(&worker(asked.worker.as_ref()), gpu, &request) {
        Ok(profile) => profile,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let document = profile::Document { schema: profile::SCHEMA.to_owned(), request, profile };
    if asked.json {
        println!("{}", serde_json::to_string_pretty(&document).expect("our own types are JSON"));
    } else {
        print!("{}", profile::text(&document));
    }
    ExitCode::SUCCESS
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
        worker: machine.worker(),
        lock_dir: machine.lock_dir(),
        nvml: machine.nvml.clone(),
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
