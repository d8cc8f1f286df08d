//! What may be asked of the agent.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fleet_agent::daemon::{ContentPlace, Place};
use fleet_agent::device::{Label, Limit, default_lock_dir};
use fleet_agent::meter::{DEFAULT_HERTZ, HWMON, IDLE_SECONDS, POWERCAP, Places, WallSource, default_cache_dir};
use fleet_agent::profile;
use fleet_common::tags::Tag;
use fleet_common::units::Bytes;
use fleet_observe::log;
use fleet_secure::token::Given;

/// Runs the trials of NetScore Fleet on this machine: one worker process per device, metered, under a memory budget.
#[derive(Debug, Parser)]
#[command(name = "fleet-agent", version, after_help = "Exit codes: 0 success; 1 failure; 2 wrong usage.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Asks a coordinator for trials and runs them until it is stopped (Ctrl-C or SIGTERM ends it tidily).
    #[command(
        after_help = "Example: fleet-agent join TOKEN, once; then: fleet-agent run --data ~/data --weights ~/weights"
    )]
    Run(Box<Run>),
    /// Exchanges a token for this machine's certificate, with a key that never leaves it.
    #[command(
        after_help = "Example: fleet-agent join nsfjoin_…\nThen: fleet-agent run --data ~/data --weights ~/weights\nWith - instead of the token it is read from standard input, where no list of processes shows it."
    )]
    Join(Join),
    /// Shows what this machine has (devices, libtorch, CUDA, meters, budget, data), what is missing, and how to get it.
    #[command(after_help = "Example: fleet-agent doctor --data ~/data\nExit code 1 when no trial could run here.")]
    Doctor(Doctor),
    /// Looks closely at a device's meters: idle power, how its sensor follows a load, and how it compares with a better
    /// meter. What is found is kept and stands in every record.
    #[command(
        after_help = "Example: fleet-agent calibrate\nExample: fleet-agent calibrate --device cuda:0 --factor 1.04 --interval 0.01 --basis \"Shelly plug, 3 runs of 10 min, idle subtracted\"\nExit codes: 0 done; 1 it could not be measured; 2 wrong usage."
    )]
    Calibrate(Calibrate),
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
pub(crate) struct Devices {
    /// The worker program [default: fleet-worker beside this program]
    #[arg(long, env = "FLEET_WORKER", value_name = "FILE")]
    pub(crate) worker: Option<PathBuf>,
    /// Folder of the device locks, which all agents of a machine must share
    /// [default: in the system's folder for temporary files]
    #[arg(long, env = "FLEET_LOCK_DIR", value_name = "DIR")]
    pub(crate) lock_dir: Option<PathBuf>,
    /// NVIDIA's management library, if it is not in the usual place
    #[arg(long, env = "FLEET_NVML", value_name = "FILE")]
    pub(crate) nvml: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// Folder with data sets: cifar-100-binary/ (or its .tar.gz), dtd/, textures/
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Folder with initial weights, one BACKBONE.safetensors (or .pth, .pth.tar, .bin) each; without it training starts
    /// from scratch. A published model is a folder BACKBONE/ there
    #[arg(long, env = "FLEET_WEIGHTS", value_name = "DIR")]
    pub(crate) weights: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) devices: Devices,
    #[command(flatten)]
    pub(crate) meters: Meters,
}

/// Where meters are, and what is known about them.
#[derive(Debug, Args)]
pub(crate) struct Meters {
    /// Where the kernel shows the CPU packages' energy counters
    #[arg(long, env = "FLEET_POWERCAP", value_name = "DIR", default_value = POWERCAP)]
    pub(crate) powercap: PathBuf,
    /// Where the kernel shows sensors: AMD GPUs, boards, power supplies
    #[arg(long, env = "FLEET_HWMON", value_name = "DIR", default_value = HWMON)]
    pub(crate) hwmon: PathBuf,
    /// A meter at the wall that tells watts: a file or an http:// address, with #/where/they/are behind it if the answer
    /// is JSON, as in http://plug/rpc/Switch.GetStatus?id=0#/apower
    #[arg(long, env = "FLEET_WALL_METER", value_name = "FILE|URL")]
    pub(crate) wall_meter: Option<WallSource>,
    /// Folder in which what is known about meters is kept from one run to the next
    /// [default: netscore-fleet in the user's cache folder]
    #[arg(long, env = "FLEET_METER_CACHE", value_name = "DIR")]
    pub(crate) meter_cache: Option<PathBuf>,
}

impl Meters {
    pub(crate) fn places(&self) -> Places {
        Places { powercap: self.powercap.clone(), hwmon: self.hwmon.clone(), wall: self.wall_meter.clone() }
    }

    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.meter_cache.clone().unwrap_or_else(default_cache_dir)
    }
}

/// Whether meters are looked at before the first trial of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Characterise {
    /// Where there is a meter that is not known yet.
    Auto,
    /// Never: energy above idle is then n/a, unless `fleet-agent calibrate` was run.
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Address of the coordinator: https://HOST:PORT with the certificate of `fleet-agent join`, http:// without
    /// encryption [default: where this agent has joined, or else http://127.0.0.1:7070]
    #[arg(long, env = "FLEET_COORDINATOR", value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// Join with this token first, unless there is a certificate of the same fleet that still counts; - reads it from
    /// standard input
    #[arg(long, env = "FLEET_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) join: Option<Given>,
    /// Folder for this agent's own files
    #[arg(long, env = "FLEET_AGENT_STATE", value_name = "DIR", default_value = "fleet-state/agent")]
    pub(crate) state: PathBuf,
    /// Devices to offer, such as cpu or cuda:0 [default: all GPUs, or the CPU where there is none]
    #[arg(long, env = "FLEET_DEVICES", value_name = "LIST", value_delimiter = ',')]
    pub(crate) devices: Vec<String>,
    /// Sets this machine apart from others with the same device: appended to the hardware class of its slots, as in
    /// "AMD EPYC, 2 CPUs [TEXT]", so that its results are not averaged with theirs. For what a device's name does not
    /// say: a power limit, a cooler, a memory speed
    #[arg(long, env = "FLEET_LABEL", value_name = "TEXT")]
    pub(crate) label: Option<Label>,
    /// Says something of this machine that campaigns select by, such as room=lab-2; may be repeated. Unlike --label it
    /// changes no hardware class: results of machines that differ in it are averaged
    #[arg(long, env = "FLEET_TAGS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) tag: Vec<Tag>,
    /// Gives a device only trials whose budget is at most this, such as cuda:0=6GiB, because others need the rest of its
    /// memory; may be repeated
    #[arg(long, value_name = "SLOT=SIZE")]
    pub(crate) limit_memory: Vec<Limit>,
    /// Threads per worker [default: all CPUs, shared among the devices]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) threads: Option<u32>,
    /// Seconds between states that an interrupted trial goes on from; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) save_every: u64,
    /// Space for the states of interrupted trials; those interrupted longest ago go first
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    pub(crate) state_space: Bytes,
    /// Where states of interrupted trials and kept weights go, so that other machines can go on with them: "told", as the
    /// coordinator says; "coordinator", through it; "none"; or the coordinator's own store under its address from here,
    /// such as s3://BUCKET/PREFIX?endpoint=URL or file:///mnt/fleet. Credentials come from AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY, or the file that AWS_SHARED_CREDENTIALS_FILE names
    #[arg(long, env = "FLEET_ARTIFACTS", value_name = "WHERE", default_value = "told")]
    pub(crate) artifacts: Place,
    /// Bytes per second on the way there while trials run, so that meters see little of it; 0 for no limit
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub(crate) artifacts_rate: Bytes,
    /// Folder for data sets and weights that this machine lacks and the coordinator has; agents of one machine can share
    /// one [default: STATE/cache]
    #[arg(long, env = "FLEET_CACHE", value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Space for them; those not wanted for longest go first, those in use stay
    #[arg(long, env = "FLEET_CACHE_SPACE", value_name = "SIZE", default_value = "50GiB")]
    pub(crate) cache_space: Bytes,
    /// A folder of shared content that is asked before the coordinator: a copy of its STATE/content or of an agent's
    /// cache, on a disk that machines share, or in an S3-compatible store (s3://BUCKET/PREFIX?endpoint=URL&region=NAME;
    /// credentials as for --artifacts). May be given several times
    #[arg(long, env = "FLEET_CONTENT_FROM", value_name = "DIR|ADDRESS", value_delimiter = ',')]
    pub(crate) content_from: Vec<ContentPlace>,
    /// Seconds of rest for a device after each trial, so that one does not heat the next
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) cool_down: u64,
    /// End by itself, with exit code 0, once there was no work for so long and everything is delivered: for machines
    /// that somebody pays for by the hour [default: stay]
    #[arg(long, env = "FLEET_LEAVE_WHEN_IDLE", value_name = "TIME", value_parser = idle_time)]
    pub(crate) leave_when_idle: Option<Duration>,
    /// Readings of each meter per second
    #[arg(long, value_name = "HZ", default_value_t = DEFAULT_HERTZ, value_parser = hertz)]
    pub(crate) meter_hertz: f64,
    /// Look at the meters before the first trial of a day, which takes a minute: idle power, and how the sensor follows
    /// a load
    #[arg(long, env = "FLEET_CHARACTERISE", value_enum, default_value_t = Characterise::Auto)]
    pub(crate) characterise: Characterise,
    /// End when standard input ends: for programs that start an agent
    #[arg(long)]
    pub(crate) exit_with_parent: bool,
    /// Address where Prometheus reads /metrics, and whoever watches over programs /healthz, such as 127.0.0.1:9465.
    /// Whoever reaches it can read what runs here [default: neither is served]
    #[arg(long, env = "FLEET_AGENT_METRICS", value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    #[command(flatten)]
    pub(crate) log: log::Options,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The token that `fleet join-token` printed; - reads it from standard input
    #[arg(value_name = "TOKEN", env = "FLEET_JOIN_TOKEN", hide_env_values = true)]
    pub(crate) token: Given,
    /// Address of the coordinator, if it is another one from here
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// Folder for this agent's own files
    #[arg(long, env = "FLEET_AGENT_STATE", value_name = "DIR", default_value = "fleet-state/agent")]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Show each meter instead: what it covers, reads now, how often it is updated, how far it may be off
    #[arg(long)]
    pub(crate) meters: bool,
    /// Print JSON (schema fleet.doctor/1; with --meters fleet.meters/1) instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Args)]
pub(crate) struct Calibrate {
    /// The device, such as cpu or cuda:0 [default: all that trials would run on]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// For how long idle power is measured: longer is steadier
    #[arg(long, value_name = "SECONDS", default_value_t = IDLE_SECONDS, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// What the sensor's joules are to be multiplied by, from a comparison with a better meter; nothing is measured then
    #[arg(long, value_name = "F", requires = "interval", value_parser = factor)]
    pub(crate) factor: Option<f64>,
    /// How far the product may be off, relative to it: half the width of the interval
    #[arg(long, value_name = "R", requires = "factor", value_parser = interval)]
    pub(crate) interval: Option<f64>,
    /// What it was compared with, for the records
    #[arg(long, value_name = "TEXT", requires = "factor", default_value = "compared with a meter at the wall")]
    pub(crate) basis: String,
    /// Forget an earlier comparison: the published error of the board counts again
    #[arg(long, conflicts_with = "factor")]
    pub(crate) forget: bool,
    /// Print JSON (schema fleet.calibration/1) instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) devices: Devices,
    #[command(flatten)]
    pub(crate) meters: Meters,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Reference folders: config.json, io.safetensors, and weights.safetensors where there are stored weights
    #[arg(required = true, value_name = "DIR")]
    pub(crate) folders: Vec<PathBuf>,
    /// Print JSON (schema fleet.verify/1) instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Name only what is beyond its tolerance
    #[arg(long)]
    pub(crate) brief: bool,
    /// Where to compute, such as cuda:0; the tolerances are the same, and TF32 is off
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) devices: Devices,
}

#[derive(Debug, Args)]
pub(crate) struct Profile {
    #[command(flatten)]
    pub(crate) options: profile::Options,
    #[command(flatten)]
    pub(crate) devices: Devices,
}

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// The adapter's folder: adapter_config.json and adapter_model.safetensors
    #[arg(value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    /// The weights that the adapter was trained on: safetensors, or a checkpoint of torch.save
    #[arg(long, value_name = "FILE")]
    pub(crate) base: PathBuf,
    /// Where to write the merged weights, as safetensors
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The worker program [default: fleet-worker beside this program]
    #[arg(long, env = "FLEET_WORKER", value_name = "FILE")]
    pub(crate) worker: Option<PathBuf>,
}

/// The worker program: the one named, or the one beside this program.
pub(crate) fn worker(named: Option<&PathBuf>) -> PathBuf {
    named.cloned().unwrap_or_else(|| std::env::current_exe().unwrap_or_default().with_file_name("fleet-worker"))
}

impl Devices {
    pub(crate) fn worker(&self) -> PathBuf {
        worker(self.worker.as_ref())
    }

    pub(crate) fn lock_dir(&self) -> PathBuf {
        self.lock_dir.clone().unwrap_or_else(default_lock_dir)
    }
}

/// A number within bounds, or what was expected.
fn number(text: &str, is_right: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| is_right(*n));
    number.ok_or_else(|| format!("expected {expected}, found \"{text}\""))
}

/// From once a second, which a minute's window needs, to what no sensor is updated faster than.
fn hertz(text: &str) -> Result<f64, String> {
    number(text, |n| (1.0..=100.0).contains(&n), "readings per second from 1 to 100")
}

/// A time in one or more units. None at all would be an agent that leaves before it has asked.
fn idle_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok().filter(|t| *t >= Duration::from_secs(1));
    time.ok_or_else(|| format!("expected a time of a second or more such as 90s, 10m or 1h 30m, found \"{text}\""))
}

/// A second's mean at least; nobody waits longer than an hour.
fn seconds(text: &str) -> Result<f64, String> {
    number(text, |n| (2.0..=3600.0).contains(&n), "seconds from 2 to 3600")
}

/// A sensor that is off by more than this is broken.
fn factor(text: &str) -> Result<f64, String> {
    number(text, |n| (0.5..=2.0).contains(&n), "a factor from 0.5 to 2")
}

fn interval(text: &str) -> Result<f64, String> {
    number(text, |n| (0.0..1.0).contains(&n), "a share from 0 to less than 1, as in 0.02 for ± 2 %")
}
