//! `fleet-agent verify`: reference folders through our implementation. The worker computes, this asks it and shows.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ask::ask;
use crate::device::GpuSlot;
use fleet_common::verify::{Check, Document, Folder, Report, SCHEMA, Verdict};

/// Runs each folder in a worker of its own, so that one that takes a worker down says so and the others still run, on
/// the CPU or on `gpu`; `before` is told of each.
pub fn verify(worker: &Path, gpu: Option<&GpuSlot>, folders: &[PathBuf], mut before: impl FnMut(&Path)) -> Document {
    let folders = folders.iter().map(|dir| {
        before(dir);
        let verdict = one(worker, gpu, dir).unwrap_or_else(|reason| Verdict::CannotRun { reason });
        Folder { folder: dir.display().to_string(), verdict }
    });
    Document { schema: SCHEMA.to_owned(), folders: folders.collect() }
}

fn one(worker: &Path, gpu: Option<&GpuSlot>, dir: &Path) -> Result<Verdict, String> {
    let mut command = Command::new(worker);
    command.arg("--verify").arg(dir);
    if let Some(gpu) = gpu {
        command.arg("cuda").env("CUDA_VISIBLE_DEVICES", &gpu.uuid);
    }
    ask(&mut command)
}

/// The document for people: every result with its errors, or only those beyond their tolerance and the worst of the
/// others if `brief`.
pub fn text(document: &Document, brief: bool) -> String {
    document.folders.iter().map(|f| folder(f, brief)).collect::<Vec<_>>().join("\n")
}

fn folder(folder: &Folder, brief: bool) -> String {
    let (word, report) = match &folder.verdict {
        Verdict::CannotRun { reason } => return format!("CANNOT RUN  {}\n            {reason}\n", folder.folder),
        Verdict::Passed(report) => ("passed", report),
        Verdict::Failed(report) => ("FAILED", report),
    };
    let Report { kind, architecture, checks } = report;
    let beyond = checks.iter().filter(|c| !c.passed).count();
    let count = match beyond {
        0 => format!("{} compared", checks.len()),
        n => format!("{n} of {} beyond their tolerance", checks.len()),
    };
    let mut out = format!("{word:<10}  {}  ({kind}, {architecture}: {count})\n", folder.folder);
    if !brief {
        out.push_str(&format!("            {:>9}  {:>9}  {:<34}  result\n", "absolute", "relative", "allowed"));
    }
    for check in checks.iter().filter(|c| !brief || !c.passed) {
        out.push_str(&line(check));
    }
    out
}

fn line(check: &Check) -> String {
    let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.2e}"));
    let mark = if check.passed { "" } else { "BEYOND" };
    format!(
        "  {mark:<8}  {:>9}  {:>9}  {:<34}  {}\n",
        number(check.absolute),
        number(check.relative),
        check.tolerance,
        check.name
    )
}
