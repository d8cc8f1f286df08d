//! NVIDIA GPUs, through the driver's management library (NVML), which is opened at run time: without a driver there is
//! none, and that is an ordinary machine.

use std::ffi::OsString;

use fleet_common::canonical::sha256_hex;
use fleet_common::record::Gpu;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::{GpuSlot, Slot, class};

/// Names under which drivers install the library; the second is what is there without development packages.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Why there are no GPUs to be seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NvidiaError {
    /// In words, with what to do where there is something to do.
    pub reason: String,
}

/// The driver's library, open.
#[derive(Debug)]
pub struct Nvidia {
    nvml: Nvml,
    driver: String,
}

impl Nvidia {
    /// Opens the driver's library; `library` names another file than the usual ones.
    ///
    /// # Errors
    /// There is no driver, or it does not answer.
    pub fn open(library: Option<&std::path::Path>) -> Result<Self, NvidiaError> {
        let names: Vec<OsString> = match library {
            Some(path) => vec![path.as_os_str().to_owned()],
            None => LIBRARIES.iter().map(OsString::from).collect(),
        };
        let mut last = None;
        for name in &names {
            match Nvml::builder().lib_path(name).init() {
                Ok(nvml) => {
                    let driver = nvml.sys_driver_version().unwrap_or_else(|_| "unknown".to_owned());
                    return Ok(Self { nvml, driver });
                }
                Err(error @ NvmlError::LibloadingError(_)) => last = last.or(Some(error)),
                Err(error) => last = Some(error),
            }
        }
        let reason = match last {
            Some(NvmlError::LibloadingError(_)) | None => "no NVIDIA driver is installed".to_owned(),
            Some(NvmlError::DriverNotLoaded) => {
                "NVIDIA's library is installed, but the driver is not loaded; try `nvidia-smi`, or reboot after an update"
                    .to_owned()
            }
            Some(NvmlError::LibRmVersionMismatch) => {
                "NVIDIA's library and driver are of different versions; reboot after an update".to_owned()
            }
            Some(NvmlError::NoPermission) => {
                "no permission to talk to the NVIDIA driver; in a container, start it with access to the GPUs".to_owned()
            }
            Some(error) => format!("the NVIDIA driver does not answer: {error}"),
        };
        Err(NvidiaError { reason })
    }

    /// The library, to read meters with.
    pub fn nvml(&self) -> &Nvml {
        &self.nvml
    }

    /// Version of the driver.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Temperature of a board, degrees Celsius, where it tells one.
    pub fn celsius(&self, index: u32) -> Option<f64> {
        let device = self.nvml.device_by_index(index).ok()?;
        let celsius = device.temperature(nvml_wrapper::enum_wrappers::device::TemperatureSensor::Gpu).ok()?;
        Some(f64::from(celsius))
    }

    /// All boards that can be offered, and why the others cannot. `visible` is `CUDA_VISIBLE_DEVICES` and `order`
    /// `CUDA_DEVICE_ORDER` as this process was given them: who gave them has given the other boards to others.
    pub fn boards(&self, visible: Option<&str>, order: Option<&str>) -> Boards {
        let mut boards = Boards::default();
        let count = match self.nvml.device_count() {
            Ok(count) => count,
            Err(error) => {
                boards
                    .left_out
                    .push(LeftOut { name: "all GPUs".to_owned(), why: format!("they cannot be counted: {error}") });
                return boards;
            }
        };
        for index in 0..count {
            match self.slot(index) {
                Ok(slot) => boards.slots.push(slot),
                Err(why) => boards.left_out.push(LeftOut { name: format!("cuda:{index}"), why }),
            }
        }
        if let Some(visible) = visible {
            boards.restrict(visible, order);
        }
        boards
    }

    fn slot(&self, index: u32) -> Result<Slot, String> {
        let failed =
            |what: &'static str| move |error: NvmlError| format!("the driver does not tell its {what}: {error}");
        let device = self.nvml.device_by_index(index).map_err(|e| format!("the driver does not answer for it: {e}"))?;
        // Boards without MIG answer that it is not supported.
        if device.mig_mode().is_ok_and(|mode| mode.current != 0) {
            return Err("it is divided into MIG slices, whose energy cannot be told apart; turn MIG off".to_owned());
        }
        let name = device.name().map_err(failed("name"))?;
        let uuid = device.uuid().map_err(failed("UUID"))?;
        let memory_bytes = device.memory_info().map_err(failed("memory"))?.total;
        let capability = device.cuda_compute_capability().ok();
        let gpu = Gpu {
            name: name.clone(),
            uuid_hash: sha256_hex(uuid.as_bytes())[..16].to_owned(),
            memory_bytes,
            driver: self.driver.clone(),
            compute_capability: capability.map_or_else(|| "unknown".to_owned(), |c| format!("{}.{}", c.major, c.minor)),
            power_limit_milliwatts: device.enforced_power_limit().ok(),
            default_power_limit_milliwatts: device.power_management_limit_default().ok(),
            vbios: device.vbios_version().ok(),
            cuda_driver: self.nvml.sys_cuda_driver_version().ok().map(|v| format!("{}.{}", v / 1000, v % 1000 / 10)),
            max_pcie_width: device.max_pcie_link_width().ok(),
            max_pcie_generation: device.max_pcie_link_gen().ok(),
        };
        Ok(Slot {
            id: format!("cuda:{index}").parse().map_err(|e| format!("{e}"))?,
            hardware: class(&name),
            memory_bytes,
            gpu: Some(GpuSlot { gpu, index, uuid }),
        })
    }
}

/// The boards of a machine.
#[derive(Debug, Default, PartialEq)]
pub struct Boards {
    /// Those that can be offered.
    pub slots: Vec<Slot>,
    /// The others.
    pub left_out: Vec<LeftOut>,
}

/// A board that is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name here.
    pub name: String,
    /// Why not, and what to do where there is something to do.
    pub why: String,
}

impl Boards {
    /// Leaves only what `CUDA_VISIBLE_DEVICES` names: UUIDs or their beginnings, or numbers.
    fn restrict(&mut self, visible: &str, order: Option<&str>) {
        let names: Vec<&str> = visible.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        // CUDA counts boards from the fastest, NVML by their place on the bus: the same only where told so, or where
        // all are alike.
        let alike = self.slots.windows(2).all(|w| w[0].hardware == w[1].hardware);
        let countable = alike || order == Some("PCI_BUS_ID");
        for slot in std::mem::take(&mut self.slots) {
            let named = slot.gpu.as_ref().is_some_and(|gpu| {
                names.iter().any(|name| match name.parse::<u32>() {
                    Ok(number) => countable && number == gpu.index,
                    Err(_) => gpu.uuid.starts_with(name),
                })
            });
            if named {
                self.slots.push(slot);
                continue;
            }
            let why = if !countable && names.iter().any(|n| n.parse::<u32>().is_ok()) {
                format!(
                    "CUDA_VISIBLE_DEVICES={visible} names boards by number, and which is which among unlike boards CUDA decides \
                     by speed; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name them by UUID (nvidia-smi -L)"
                )
            } else {
                format!("CUDA_VISIBLE_DEVICES={visible} does not name it")
            };
            self.left_out.push(LeftOut { name: slot.id.to_string(), why });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boards(classes: &[&str]) -> Boards {
        let slot = |(index, name): (usize, &&str)| Slot {
            id: format!("cuda:{index}").parse().expect("a slot"),
            hardware: class(name),
            memory_bytes: 1,
            gpu: Some(GpuSlot {
                gpu: Gpu { name: (*name).to_owned(), memory_bytes: 1, ..Gpu::default() },
                index: index as u32,
                uuid: format!("GPU-{index}{index}{index}"),
            }),
        };
        Boards { slots: classes.iter().enumerate().map(slot).collect(), left_out: Vec::new() }
    }

    #[test]
    fn only_visible_boards_are_offered() {
        let offered = |classes: &[&str], visible: &str, order: Option<&str>| {
            let mut boards = boards(classes);
            boards.restrict(visible, order);
            assert_eq!(boards.slots.len() + boards.left_out.len(), classes.len(), "none vanishes without a word");
            let ids = boards.slots.iter().map(|s| s.id.to_string()).collect::<Vec<_>>();
            (ids, boards.left_out.into_iter().map(|l| l.why).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(offered(&["A", "A"], "1", None).0, ["cuda:1"]);
        assert_eq!(offered(&["A", "B"], "GPU-11", None).0, ["cuda:1"]);
        assert_eq!(offered(&["A", "B"], "1", Some("PCI_BUS_ID")).0, ["cuda:1"]);
        let (none, why) = offered(&["A", "B"], "1", None);
        assert!(none.is_empty() && why.contains("CUDA_DEVICE_ORDER=PCI_BUS_ID"), "{why}");
        assert!(offered(&["A", "A"], "", None).0.is_empty());
        assert!(offered(&["A", "A"], "-1", None).0.is_empty());
    }
}
