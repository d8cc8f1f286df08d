//! What is here: devices that can run a trial, each a slot.

mod cpu;
mod fault;
mod label;
mod limit;
mod lock;
mod nvidia;

use std::path::Path;

use fleet_common::id::{HardwareClass, SlotId};
use fleet_common::record::Gpu;

use crate::ask;

pub use cpu::Host;
pub use label::{BadLabel, Label};
pub use limit::{BadLimit, Limit};
pub use lock::{DeviceLock, LockError, default_lock_dir};
pub use nvidia::{Boards, LeftOut, Nvidia, NvidiaError};

/// A device that runs one trial at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Its name on this machine.
    pub id: SlotId,
    /// The class under which its measurements may be averaged.
    pub hardware: HardwareClass,
    /// Its memory, bytes.
    pub memory_bytes: u64,
    /// The GPU, for a GPU slot.
    pub gpu: Option<GpuSlot>,
}

/// What a GPU slot needs to know of its GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuSlot {
    /// For the record.
    pub gpu: Gpu,
    /// NVML's index.
    pub index: u32,
    /// For `CUDA_VISIBLE_DEVICES`: NVML and CUDA may count differently, a UUID means one board.
    pub uuid: String,
}

/// Why a device that was asked for cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("there is no device \"{wanted}\" to be had here{why}; this machine has {present}")]
pub struct NoSuchDevice {
    wanted: String,
    why: String,
    present: String,
}

/// All slots of this machine, its GPUs and its CPU, and the GPUs that cannot be offered. The GPUs are those that
/// `worker` can use: what the driver shows, libtorch may be too new, too old or not built for.
pub fn all(host: &Host, nvidia: Result<&Nvidia, &NvidiaError>, worker: &Path) -> Boards {
    let mut boards = described(host, nvidia);
    for slot in std::mem::take(&mut boards.slots) {
        let Some(gpu) = &slot.gpu else {
            boards.slots.push(slot);
            continue;
        };
        match ask::check(worker, Some(&gpu.uuid)).and_then(|check| check.cuda) {
            Ok(_) => boards.slots.push(slot),
            Err(why) => boards.left_out.push(LeftOut { name: slot.id.to_string(), why }),
        }
    }
    boards
}

/// The same by what drivers and the kernel say alone.
pub fn described(host: &Host, nvidia: Result<&Nvidia, &NvidiaError>) -> Boards {
    let variable = |name| std::env::var(name).ok();
    let (visible, order) = (variable("CUDA_VISIBLE_DEVICES"), variable("CUDA_DEVICE_ORDER"));
    let mut boards = nvidia.map(|n| n.boards(visible.as_deref(), order.as_deref())).unwrap_or_default();
    boards.slots.push(Slot {
        id: "cpu".parse().expect("a slot name"),
        hardware: class(&format!("{}, {} CPUs", host.cpu, host.cpus)),
        memory_bytes: host.memory_bytes,
        gpu: None,
    });
    boards
}

/// The slots to offer: those named, or by default the GPUs, or the CPU where there is none.
///
/// # Errors
/// A named device is not here.
pub fn choose(boards: Boards, wanted: &[String]) -> Result<Vec<Slot>, NoSuchDevice> {
    let Boards { slots: all, left_out } = boards;
    if wanted.is_empty() {
        let has_gpu = all.iter().any(|s| s.gpu.is_some());
        return Ok(all.into_iter().filter(|s| s.gpu.is_some() == has_gpu).collect());
    }
    wanted
        .iter()
        .map(|name| {
            all.iter().find(|s| s.id.as_str() == name).cloned().ok_or_else(|| NoSuchDevice {
                wanted: name.clone(),
                why: left_out.iter().find(|l| l.name == *name).map_or_else(String::new, |l| format!(" ({})", l.why)),
                present: all.iter().map(|s| s.id.as_str()).collect::<Vec<_>>().join(", "),
            })
        })
        .collect()
}

/// A class from a name that some driver or kernel made up.
fn class(name: &str) -> HardwareClass {
    let plain: String = name.chars().map(|c| if c.is_control() || c == '/' { '-' } else { c }).take(120).collect();
    plain.trim().parse().unwrap_or_else(|_| "unknown device".parse().expect("a class"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(id: &str, gpu: bool) -> Slot {
        let gpu = gpu.then(|| GpuSlot {
            gpu: Gpu { name: "G".into(), memory_bytes: 1, ..Gpu::default() },
            index: 0,
            uuid: String::new(),
        });
        Slot { id: id.parse().expect("a slot"), hardware: class("x"), memory_bytes: 1, gpu }
    }

    #[test]
    fn gpus_are_offered_where_there_are_any_and_named_devices_must_exist() {
        let ids = |slots: Vec<Slot>| slots.iter().map(|s| s.id.to_string()).collect::<Vec<_>>();
        let of = |slots| Boards { slots, left_out: vec![LeftOut { name: "cuda:2".into(), why: "MIG".into() }] };
        let both = || of(vec![slot("cuda:0", true), slot("cuda:1", true), slot("cpu", false)]);
        assert_eq!(ids(choose(both(), &[]).expect("a default")), ["cuda:0", "cuda:1"]);
        assert_eq!(ids(choose(of(vec![slot("cpu", false)]), &[]).expect("a default")), ["cpu"]);
        assert_eq!(ids(choose(both(), &["cpu".into()]).expect("it is there")), ["cpu"]);
        let error = choose(both(), &["cuda:7".into()]).expect_err("not there").to_string();
        assert!(error.contains("cuda:7") && error.contains("cuda:0, cuda:1, cpu"), "{error}");
        let error = choose(both(), &["cuda:2".into()]).expect_err("left out").to_string();
        assert!(error.contains("(MIG)"), "{error}");
    }

    #[test]
    fn any_devices_name_becomes_a_class() {
        assert_eq!(class("NVIDIA A/B\n").as_str(), "NVIDIA A-B-");
        assert_eq!(class("").as_str(), "unknown device");
        assert_eq!(class(&"x".repeat(500)).as_str().len(), 120);
    }
}
