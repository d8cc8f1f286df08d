//! One process per trial. The daemon writes a job to standard input and keeps that pipe open; events go to standard
//! output, logs to standard error. See `fleet_common::worker`.

use std::fs::File;
use std::io::BufRead;
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fleet_common::profile::Request;
use fleet_common::record::{Cap, Outcome, PeakPlace, Training};
use fleet_common::spec::BudgetScope;
use fleet_common::verify::Verdict;
use fleet_common::worker::{Check, Job, JobDevice, LoadRequest, Merged, STOP};
use fleet_worker::load;
use fleet_worker::nn::Weights;
use fleet_worker::peft::layout;
use fleet_worker::torch::cap::{self, CapError};
use fleet_worker::torch::cuda::{self, CudaHalf};
use fleet_worker::torch::memory::Memory;
use fleet_worker::torch::{deterministic, guard, libtorch_version};
use fleet_worker::train::{self, Events};
use fleet_worker::verify;
use tch::{Device, Kind, Tensor};

/// The daemon is gone: nobody wants the result, and another worker may need the device.
const EXIT_ORPHANED: i32 = 3;
/// Standard input did not hold a job.
const EXIT_NO_JOB: i32 = 2;
/// Ten samples per second (measurement.md asks for at least that).
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

fn main() {
    let events = Arc::new(Events::new(private_stdout()));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::INFO).init();

    if std::env::args().nth(1).as_deref() == Some("--check") {
        return events.line(&check());
    }
    if let (Some("--verify"), [dir, on @ ..]) = (std::env::args().nth(1).as_deref(), &paths()[..]) {
        return events.line(&compare(dir, on.first().is_some_and(|on| on == Path::new("cuda"))));
    }
    if let (Some("--merge"), [adapter, base, out]) = (std::env::args().nth(1).as_deref(), &paths()[..]) {
        return events.line(&merge(adapter, base, out).map_err(|e| format!("{e:#}")));
    }
    if std::env::args().nth(1).as_deref() == Some("--profile") {
        return events.line(&profile());
    }
    if std::env::args().nth(1).as_deref() == Some("--load") {
        if let Err(why) = load(&events) {
            eprintln!("fleet-worker: {why}");
            leave(1);
        }
        return;
    }
    let mut stdin = std::io::stdin().lock();
    let mut line = String::new();
    if let Err(error) = stdin.read_line(&mut line) {
        eprintln!("fleet-worker: cannot read a job from standard input: {error}");
        exit(EXIT_NO_JOB);
    }
    drop(stdin);
    let job: Job = match serde_json::from_str(&line) {
        Ok(job) => job,
        Err(error) => {
            eprintln!(
                "fleet-worker: expected a job as one line of JSON on standard input, found something else ({error}).\n\
                 This program is started by fleet-agent; see `fleet-agent --help`."
            );
            exit(EXIT_NO_JOB);
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (budget, scope) = (job.settings.budget_bytes, job.settings.budget_scope);
    let ready = prepare(job.device, budget, scope, job.threads, || listen_to_the_daemon(stop.clone()));
    let (device, cap) = ready.unwrap_or_else(|why| give_up(&events, &why));
    let memory = Memory::of(device);
    {
        let events = events.clone();
        std::thread::spawn(move || {
            loop {
                if let Ok(stats) = memory.stats() {
                    events.memory(stats.live);
                }
                std::thread::sleep(SAMPLE_EVERY);
            }
        });
    }
    let (outcome, training) = train::run(&job, device, cap, &events, &stop);
    events.finished(outcome, training);
    leave(0);
}

/// What stands behind the first argument.
fn paths() -> Vec<PathBuf> {
    std::env::args_os().skip(2).map(PathBuf::from).collect()
}

/// Why there is nothing to train on.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("{0}")]
    Device(String),
    #[error(transparent)]
    Cap(#[from] CapError),
}

/// The device, capped, with the cap tried. `settled` is called once the environment is as it will stay; before that no other
/// thread may run.
fn prepare(
    wanted: JobDevice,
    budget: Option<u64>,
    scope: BudgetScope,
    threads: u32,
    settled: impl FnOnce(),
) -> Result<(Device, Option<Cap>), NotReady> {
    let on_cuda = match (wanted, budget) {
        // SAFETY: no other thread runs yet, and libtorch's CUDA half is loaded below.
        (JobDevice::Cuda, Some(budget)) => Some(unsafe { cuda::cap(budget, scope) }?),
        (JobDevice::Cuda, None) => {
            // SAFETY: as above.
            unsafe { cuda::uncapped() };
            None
        }
        (JobDevice::Cpu, _) => None,
    };
    settled();
    let device = device(wanted).map_err(NotReady::Device)?;
    let memory = Memory::of(device);
    tch::set_num_threads(threads as i32);
    tch::set_num_interop_threads(1);
    let cap = match (wanted, budget) {
        (JobDevice::Cpu, Some(budget)) => Some(cap::on_cpu(budget, scope)?),
        _ => on_cuda,
    };
    if let Some(cap) = cap {
        cap::verify(device, cap)?;
        memory.reset_peak().map_err(|e| NotReady::Device(e.to_string()))?;
    }
    Ok((device, cap))
}

/// Ends a trial that has no device, or no cap although it was to have one: without it, its figures would mean something
/// else.
fn give_up(events: &Events, why: &NotReady) -> ! {
    let outcome = match *why {
        NotReady::Cap(CapError::NothingLeft { overhead, budget }) => Outcome::DoesNotFit {
            needed_bytes: overhead + 1,
            budget_bytes: budget,
            place: PeakPlace { phase: "start".to_owned(), block: None },
        },
        // The machine's fault, not the cell's: another may do better.
        _ => Outcome::Crashed { message: why.to_string() },
    };
    events.finished(outcome, Training::default());
    leave(0)
}

/// Profiles what a line of JSON on standard input asks for.
fn profile() -> fleet_common::profile::Answer {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| format!("cannot read standard input: {e}"))?;
    let request: Request = serde_json::from_str(&line)
        .map_err(|e| format!("expected a request as one line of JSON, found something else ({e})"))?;
    let first = request.cells.first().ok_or("expected at least one cell to profile, found none")?;
    // What the process takes beside tensors is a trial's matter.
    let ready = prepare(request.device, first.budget_bytes, BudgetScope::Allocator, request.threads, || ());
    let (device, _) = ready.map_err(|why| why.to_string())?;
    train::profile::profile(&request, device)
}

/// Puts load on a device in turns, until it has been on often enough or whoever asked is gone.
fn load(events: &Events) -> Result<(), String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| format!("cannot read standard input: {e}"))?;
    let request: LoadRequest = serde_json::from_str(&line)
        .map_err(|e| format!("expected a load as one line of JSON, found something else ({e})"))?;
    listen_to_the_daemon(Arc::default());
    load::run(&request, device(request.device)?, |edge| events.line(edge)).map_err(|e| e.to_string())
}

/// Writes the weights `base` with the adapter in the folder `adapter` added to them.
fn merge(adapter: &Path, base: &Path, out: &Path) -> anyhow::Result<Merged> {
    guard(|| {
        let (weights, merged) = layout::merge(Weights::read(base)?.without_wrapper(), adapter)?;
        weights.write(out)?;
        Ok(merged)
    })?
}

/// A reference folder on the CPU or on the first GPU.
fn compare(dir: &Path, on_cuda: bool) -> Verdict {
    if !on_cuda {
        return verify::run(dir, Device::Cpu);
    }
    // By default cuDNN rounds a convolution's factors to TF32's ten bits, as in PyTorch; the references are of f32. And
    // some gradients (of convolutions, of attention's position tables) are added up in whatever order, which would hide
    // whether checkpointing changes a bit.
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("NVIDIA_TF32_OVERRIDE", "0");
        std::env::set_var("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
    }
    let ready = device(JobDevice::Cuda).and_then(|device| deterministic().map(|()| device).map_err(|e| e.to_string()));
    match ready {
        Ok(device) => verify::run(dir, device),
        Err(reason) => Verdict::CannotRun { reason },
    }
}

/// The device to train on. Loads libtorch's CUDA half where it is needed, before anything asks about CUDA.
fn device(wanted: JobDevice) -> Result<Device, String> {
    match wanted {
        JobDevice::Cpu => Ok(Device::Cpu),
        JobDevice::Cuda => match cuda::load() {
            // The allocator's statistics exist only once CUDA is at work, so a first tensor starts it.
            CudaHalf::Devices(_) => guard(|| drop(Tensor::zeros([1], (Kind::Float, Device::Cuda(0)))))
                .map(|()| Device::Cuda(0))
                .map_err(|e| format!("CUDA cannot be started: {e}")),
            CudaHalf::NoDevice => Err("libtorch's CUDA half is there, but it sees no GPU".to_owned()),
            CudaHalf::Absent(why) => Err(format!(
                "libtorch's CUDA half cannot be loaded ({why}); run `FLEET_TORCH=cuda make setup` and build again"
            )),
        },
    }
}

/// What libtorch can do here.
fn check() -> Check {
    let cuda = match cuda::load() {
        // A board may be seen and still be of no use: too old for this build's kernels, or wedged.
        CudaHalf::Devices(n) => {
            guard(|| Tensor::ones([2], (Kind::Float, Device::Cuda(0))).sum(Kind::Float).double_value(&[]))
                .map(|_| n as u32)
                .map_err(|e| format!("libtorch cannot compute on it: {e}"))
        }
        CudaHalf::NoDevice => Err("libtorch's CUDA half is there, but it sees no GPU".to_owned()),
        CudaHalf::Absent(_) => Err("libtorch is set up for the CPU only".to_owned()),
    };
    let memory = Memory::of(Device::Cpu);
    memory.set_cpu_cap(Some(64 << 20));
    let refused = guard(|| Tensor::zeros([32 << 20], (Kind::Float, Device::Cpu))).is_err();
    let counted = memory.stats().is_ok_and(|s| s.refusals == 1);
    Check { libtorch: libtorch_version(), cuda, cpu_cap_enforced: refused && counted }
}

/// Ends the process at once. Decoding and sampling threads are still at work, and running libtorch's destructors under
/// them could turn a finished trial into a crash; everything was flushed, and nothing else needs tidying.
fn leave(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Standard output for events alone: whatever a library prints goes to standard error instead.
fn private_stdout() -> File {
    // SAFETY: duplicates and redirects this process's own descriptors before any other thread runs.
    unsafe {
        let private = libc::dup(1);
        libc::dup2(2, 1);
        File::from_raw_fd(private)
    }
}

/// Sets `stop` when the daemon asks for the end, and ends this process when standard input ends: then the daemon is
/// gone, however it went.
fn listen_to_the_daemon(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == STOP {
                stop.store(true, Ordering::Relaxed);
            }
        }
        leave(EXIT_ORPHANED);
    });
}
