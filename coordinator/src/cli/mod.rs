//! The `fleet` command: what people type, and what they get to see.
//!
//! Tables and progress are for people; `--json` is for programs, and the two are never mixed: with `--json`, standard
//! output holds one JSON document and nothing else.

/// A line on standard output. A reader that has seen enough closes the pipe, which is no failure.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::say(format_args!($($words)*)) };
}

mod agents;
mod artifacts;
mod backup;
mod campaign;
mod certs;
mod client;
mod compare;
mod data;
mod explain;
mod export;
mod failure;
mod fetch;
mod files;
mod import;
mod join;
mod local;
mod progress;
mod records;
mod report;
mod resolve;
mod samples;
mod secured;
mod serve;
mod share;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod transfer;
mod weights;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use fleet_common::id::CampaignName;
use fleet_observe::log;

pub use failure::Failure;

const EXIT_CODES: &str = "\
Example: fleet local deploy/campaigns/vits.toml --data ~/data --report vits.html

Exit codes:
  0    success (a trial that does not fit its budget, or that diverged, is a result and no failure)
  1    something failed, or a campaign ended with failed trials
  2    wrong usage, or a campaign file, data set or weights file that is not right
  3    the coordinator cannot be reached
  130  interrupted; nothing is lost, the same command goes on";

/// Compares fine-tuning methods, vision backbones and checkpointing strategies on the hardware that you have: what each
/// costs in memory, time and energy, and what it gives.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a campaign on this machine: coordinator and agent in one command, then the report.
    #[command(after_help = "Example: fleet local deploy/campaigns/vits.toml --data ~/data --report vits.html\n\
        Interrupted, the same command goes on where it was.")]
    Local(local::Local),
    /// Runs a coordinator.
    #[command(after_help = "Example: fleet serve --state /var/lib/fleet\n\
        For other machines: fleet certs init, then fleet serve --listen 0.0.0.0:7070 (encrypted, each machine with a \
        certificate).")]
    Serve(serve::Serve),
    /// Certificates of a fleet: makes the authority, gives out, lists, renews and revokes.
    #[command(subcommand, after_help = "Example: fleet certs init --name coordinator.lan --state /var/lib/fleet")]
    Certs(certs::Certs),
    /// Prints a token that lets a machine (or a person, with --role) join, once and within the hour.
    #[command(after_help = "Example: fleet join-token --uses 8 --valid 1d\n\
        On each machine: fleet-agent join TOKEN")]
    JoinToken(join::JoinToken),
    /// Exchanges a token for this person's certificate, which all commands then use.
    #[command(after_help = "Example: fleet join nsfjoin_…\n\
        With - instead of the token it is read from standard input, where no list of processes shows it.")]
    Join(join::Join),
    /// Submits a campaign to a coordinator; a changed file asks only for what is new.
    #[command(after_help = "Example: fleet submit campaign.toml --data ~/data --weights ~/weights")]
    Submit(campaign::Submit),
    /// Shows what a campaign would run, and every combination left out with its reason. Runs nothing.
    #[command(after_help = "Example: fleet plan campaign.toml --data ~/data")]
    Plan(campaign::Plan),
    /// Shows where campaigns and agents stand.
    #[command(after_help = "Example: fleet status nightly")]
    Status(status::Status),
    /// Says why a trial is not running: what it waits for, what each slot lacks, what is expected of it, what became of
    /// its attempts.
    #[command(after_help = "Example: fleet explain 3fa91c02")]
    Explain(explain::Explain),
    /// Shows agents and their slots, drains or undrains them, and prints files that start more.
    #[command(
        after_help = "Example: fleet agents\nExample: fleet agents drain lab-3f2a9c01/cuda:1 --reason \"new fan\"\nExample: fleet agents script systemd --coordinator http://10.0.0.5:7070"
    )]
    Agents(agents::Agents),
    /// Shows a campaign's progress until it is over.
    #[command(after_help = "Example: fleet watch nightly")]
    Watch(status::Watch),
    /// Compares what a campaign has finished: a table, and with --html a report.
    #[command(after_help = "Example: fleet report nightly --html nightly.html")]
    Report(report::Report),
    /// Sets the levels of one factor side by side, over one or more campaigns: hardware against hardware, method
    /// against method. What is not comparable is not related, and is named with the reason.
    #[command(after_help = "Example: fleet compare nightly weekend --by hardware --html by-hardware.html")]
    Compare(compare::Compare),
    /// Writes the records of a campaign or an imported set to a file.
    #[command(after_help = "Example: fleet export nightly --jsonl nightly.jsonl")]
    Export(export::Export),
    /// Lists the attempts that have samples, or writes all their samples to a file: power, energy, memory over time.
    #[command(after_help = "Example: fleet samples nightly --parquet nightly.parquet")]
    Samples(samples::Samples),
    /// Trained weights and adapters that a campaign has kept: list them, fetch them from the artifact store.
    #[command(subcommand, after_help = "Example: fleet artifacts get nightly --out kept")]
    Artifacts(artifacts::Artifacts),
    /// Takes in records that were exported elsewhere, as a read-only set beside the campaigns.
    #[command(after_help = "Example: fleet import nightly.jsonl --as nightly-lab-b")]
    Import(import::Import),
    /// Opens a campaign's failed or cancelled trials again.
    #[command(after_help = "Example: fleet retry nightly --failed")]
    Retry(campaign::Retry),
    /// Calls off what of a campaign has not ended; what has ended is kept.
    #[command(after_help = "Example: fleet cancel nightly")]
    Cancel(campaign::Cancel),
    /// Copies all that a running coordinator keeps into a folder here, checks the copy, and goes on where it was
    /// interrupted.
    #[command(after_help = "Example: fleet backup backups/2026-08-01 --coordinator http://COORDINATOR:7070")]
    Backup(backup::Backup),
    /// A coordinator's state folder, while no coordinator holds it: check, rebuild, move.
    #[command(subcommand, after_help = "Example: fleet store verify /var/lib/fleet")]
    Store(store::Store),
    /// Data sets: get the public ones, check them, look at them, share them, or write the procedural textures.
    #[command(subcommand, after_help = "Example: fleet data info cifar100 --data ~/data")]
    Data(data::Data),
    /// Initial weights: get the public ones, check them, share them.
    #[command(subcommand, after_help = "Example: fleet weights get --weights ~/weights")]
    Weights(weights::Weights),
    /// Lists the data sets and weights that agents can have from the coordinator.
    #[command(after_help = "Example: fleet shared\nExample: fleet shared --remove ITEM")]
    Shared(share::Listing),
}

/// Where the coordinator is.
#[derive(Debug, Args)]
struct Coordinator {
    /// Address of the coordinator: https://HOST:PORT with the certificate of `fleet join`, http:// without encryption
    #[arg(long, env = "FLEET_COORDINATOR", value_name = "URL", default_value_t = client::usual_coordinator())]
    coordinator: String,
}

/// Where files are.
#[derive(Debug, Args)]
struct Files {
    /// Folder with data sets: cifar-100-binary/ (or its .tar.gz), dtd/, textures/
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Folder with initial weights, one BACKBONE.safetensors (or .pth, .pth.tar, .bin) each; a backbone without one
    /// trains from scratch. A published model is a folder BACKBONE/ there
    #[arg(long, env = "FLEET_WEIGHTS", value_name = "DIR")]
    weights: Option<PathBuf>,
}

/// A campaign by name.
#[derive(Debug, Args)]
struct Named {
    /// The campaign's name, as its file gives it
    #[arg(value_name = "CAMPAIGN")]
    campaign: CampaignName,
}

/// How results are shown.
#[derive(Debug, Args)]
struct Json {
    /// Print one JSON document instead of text (coordinator/README.md describes the schemas)
    #[arg(long)]
    json: bool,
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let (format, default) = match &cli.command {
        Command::Serve(serve) => (serve.log.log_format, "info"),
        Command::Local(_) => (log::Format::Text, "warn"),
        _ => (log::Format::Text, "info"),
    };
    log::start(format, default);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))
        .and_then(|runtime| {
            let outcome = runtime.block_on(dispatch(cli.command));
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                log::last_words(format, message);
            }
            failure.exit_code()
        }
    }
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Local(local) => local.run().await,
        Command::Serve(serve) => serve.run().await,
        Command::Certs(certs) => certs.run().await,
        Command::JoinToken(token) => token.run().await,
        Command::Join(join) => join.run().await,
        Command::Submit(submit) => submit.run().await,
        Command::Plan(plan) => plan.run().await,
        Command::Status(status) => status.run().await,
        Command::Explain(explain) => explain.run().await,
        Command::Agents(agents) => agents.run().await,
        Command::Watch(watch) => watch.run().await,
        Command::Report(report) => report.run().await,
        Command::Compare(compare) => compare.run().await,
        Command::Export(export) => export.run().await,
        Command::Samples(samples) => samples.run().await,
        Command::Artifacts(artifacts) => artifacts.run().await,
        Command::Import(import) => import.run().await,
        Command::Retry(retry) => retry.run().await,
        Command::Cancel(cancel) => cancel.run().await,
        Command::Backup(backup) => backup.run().await,
        Command::Store(store) => store.run().await,
        Command::Data(data) => data.run().await,
        Command::Weights(weights) => weights.run().await,
        Command::Shared(listing) => listing.run().await,
    }
}

/// See the macro of this name.
fn say(words: std::fmt::Arguments<'_>) {
    let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{words}\n"));
}

/// Prints a JSON document.
fn print_json(value: &impl serde::Serialize) {
    say!("{}", serde_json::to_string_pretty(value).expect("our own types are JSON"));
}

/// Columns of the terminal; `None` where output goes elsewhere.
fn terminal_width() -> Option<u16> {
    use std::io::IsTerminal as _;
    let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col);
    columns.filter(|columns| *columns > 0 && std::io::stdout().is_terminal())
}
