//! Raw counters in, readings out. What the readings mean over a window is `fleet_common::energy`'s business.
//!
//! A device is not a meter: which meters belong to a slot is decided here, once, explicitly. A GPU slot is measured by
//! its own board; the CPU slot by all CPU packages of the machine, whatever else runs on them.

mod nvml;
mod process;
mod rapl;

use std::path::Path;
use std::sync::Arc;

use fleet_common::record::EnergyDomain;
use fleet_common::telemetry::Channel;

pub use nvml::NvmlMeter;
pub use process::{ProcessMeter, resident_bytes};
pub use rapl::{Rapl, RaplError};

use crate::device::{Nvidia, Slot};

/// A reading: of what, and the integer that its series names the unit of.
pub type Reading = (Channel, i64);

/// Something that can be read again and again.
pub trait Meter: Send {
    /// What it reads now; what cannot be read at the moment is left out.
    fn read(&mut self) -> Vec<Reading>;
}

/// The meters of a slot, and whether energy is among them.
pub struct SlotMeters {
    /// To be read while a trial runs.
    pub meters: Vec<Box<dyn Meter>>,
    /// What energy figures of this slot cover, or why there are none.
    pub energy: Result<EnergyDomain, String>,
}

/// The meters of `slot`.
pub fn of(slot: &Slot, nvidia: Option<&Arc<Nvidia>>, powercap: &Path) -> SlotMeters {
    match (&slot.gpu, nvidia) {
        (Some(gpu), Some(nvidia)) => {
            let meter = NvmlMeter::new(nvidia.clone(), gpu.index);
            let energy = meter.energy().map(|()| EnergyDomain::Gpu);
            SlotMeters { meters: vec![Box::new(meter)], energy }
        }
        (Some(_), None) => SlotMeters { meters: vec![], energy: Err("the NVIDIA driver does not answer".to_owned()) },
        (None, _) => match Rapl::open(powercap) {
            Ok(rapl) => SlotMeters { meters: vec![Box::new(rapl)], energy: Ok(EnergyDomain::CpuPackages) },
            Err(error) => SlotMeters { meters: vec![], energy: Err(error.to_string()) },
        },
    }
}

/// Where Linux shows power capping, and with it the CPU packages' energy counters.
pub const POWERCAP: &str = "/sys/class/powercap";
