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

    /// All GPUs that answer.
    pub fn slots(&self) -> Vec<Slot> {
        let count = self.nvml.device_count().unwrap_or(0);
        (0..count).filter_map(|index| self.slot(index)).collect()
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let device = self.nvml.device_by_index(index).ok()?;
        let name = device.name().ok()?;
        let uuid = device.uuid().ok()?;
        let memory_bytes = device.memory_info().ok()?.total;
        let capability = device.cuda_compute_capability().ok();
        let gpu = Gpu {
            name: name.clone(),
            uuid_hash: sha256_hex(uuid.as_bytes())[..16].to_owned(),
            memory_bytes,
            driver: self.driver.clone(),
            compute_capability: capability.map_or_else(|| "unknown".to_owned(), |c| format!("{}.{}", c.major, c.minor)),
            power_limit_milliwatts: device.enforced_power_limit().ok(),
        };
        Some(Slot {
            id: format!("cuda:{index}").parse().ok()?,
            hardware: class(&name),
            memory_bytes,
            gpu: Some(GpuSlot { gpu, index, uuid }),
        })
    }
}
