//! Raw counters in, readings out. What the readings mean over a window is `fleet_common::energy`'s business.
//!
//! A device is not a meter: which meters belong to a slot is decided in `slot`, once, explicitly. A GPU slot is measured
//! by its own board; the CPU slot by all CPU packages of the machine, whatever else runs on them.
//!
//! ```text
//! nvml  rapl  hwmon  wall  process ─► sampler (10 Hz, one thread) ─► readings ─► account: phases, flags
//! character: what a sensor is like, measured once a day ─► gauges ──────────────┘
//! ```

mod account;
mod character;
mod characterise;
mod hwmon;
mod load;
mod look;
mod nvml;
mod process;
mod rapl;
mod sampler;
mod slot;
mod wall;

use fleet_common::telemetry::{Channel, MonoNanos};

pub use account::{Account, Mark};
pub(crate) use account::{interruptions, short_windows};
pub use character::{Cache, CacheError, Calibration, Character, default_cache_dir};
pub use characterise::{Found, IDLE_SECONDS, characterise};
pub use hwmon::{HWMON, Hwmon};
pub use load::{LoadError, SquareLoad};
pub use look::{Seen, SlotSurvey, Survey, look};
pub use nvml::NvmlMeter;
pub use process::{ProcessMeter, resident_bytes};
pub use rapl::{POWERCAP, Rapl, RaplError};
pub use sampler::{Batch, DEFAULT_HERTZ, sample};
pub use slot::{Covered, Metered, Places, SlotMeters, of};
pub use wall::{WallError, WallMeter, WallSource};

/// A reading: when, of what, and the integer that its series names the unit of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// When.
    pub at: MonoNanos,
    /// Of what.
    pub channel: Channel,
    /// How much.
    pub value: i64,
}

/// Something that can be read again and again.
pub trait Meter: Send {
    /// What it is, for people.
    fn name(&self) -> String;

    /// What it reads `now`; what cannot be read at the moment is left out, and becomes a remark.
    fn read(&mut self, now: MonoNanos) -> Vec<Reading>;

    /// What went wrong since this was last asked, once each, in words for the record.
    fn remarks(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Remarks that are made once each, however often their cause comes back.
#[derive(Debug, Default)]
struct Remarks {
    made: std::collections::BTreeSet<String>,
    new: Vec<String>,
}

impl Remarks {
    fn make(&mut self, remark: String) {
        // A remark with figures in it differs each time; a hundred of a kind are enough to know.
        if self.made.len() < 100 && self.made.insert(remark.clone()) {
            self.new.push(remark);
        }
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new)
    }
}
