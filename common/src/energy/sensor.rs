//! How wrong a sensor may be, where nobody has compared it with a better one.
//!
//! The errors of boards are measurements of single specimens against an external meter, published with arXiv 2312.02741
//! ("Part-time power measurements: nvidia-smi's lack of attention"); they differ between specimens and drivers. So they
//! are taken as the half width of an interval and never as a correction. Ratios between methods on one board are not
//! touched by them.

use serde::{Deserialize, Serialize};

use crate::record::EnergyDomain;

/// What a sensor's joules are multiplied by, and how far off the product may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensorTerm {
    /// Factor: 1 unless the sensor was compared with a better one.
    pub factor: f64,
    /// Half width of the interval around the product, relative to it.
    pub relative: f64,
    /// Where both come from, in words.
    pub basis: String,
}

/// Boards' published errors in percent of the reading, by the end of the driver's name for them.
const BOARDS: [(&str, f64); 6] = [
    ("RTX 3090", -5.6),
    ("RTX 4090", -5.3),
    ("RTX 3070 Ti", -3.6),
    ("RTX 2080 Ti", -7.9),
    ("RTX 2060 SUPER", 12.7),
    ("GTX 1080 Ti", -0.4),
];
/// Boards whose sensor looks at about a quarter of the time only: a load with a rhythm may hide from it.
const PART_TIME: [&str; 2] = ["A100", "H100"];
/// The largest published error, for boards without one of their own.
const WORST: f64 = 12.7;
/// Nobody publishes RAPL's error by model; comparisons with meters at the wall find a few percent for packages.
const RAPL: f64 = 5.0;
/// Less is known of what is behind hwmon.
const UNKNOWN: f64 = 10.0;
/// Plugs that measure state 1 to 2 %.
const WALL: f64 = 2.0;

/// The term for a domain of the device that its driver calls `device`.
pub fn default_term(domain: EnergyDomain, device: &str) -> SensorTerm {
    let (percent, basis) = match domain {
        EnergyDomain::Gpu => board(device),
        EnergyDomain::CpuPackages | EnergyDomain::Dram => {
            (RAPL, "assumed for RAPL; none is published by model".to_owned())
        }
        EnergyDomain::Sensor => (UNKNOWN, "assumed; nothing is published about such sensors".to_owned()),
        EnergyDomain::Wall => (WALL, "assumed for a plug; its maker states it".to_owned()),
    };
    SensorTerm { factor: 1.0, relative: percent / 100.0, basis }
}

fn board(device: &str) -> (f64, String) {
    const SHEET: &str = "arXiv 2312.02741";
    if let Some((name, error)) = BOARDS.iter().find(|(name, _)| device.trim().ends_with(name)) {
        return (error.abs(), format!("{SHEET} measured {error:+} % on one {name}"));
    }
    let worst = format!("the largest deviation of a board in {SHEET}; none is published for this one");
    match PART_TIME.iter().any(|name| device.contains(name)) {
        true => (WORST, format!("{worst}, whose sensor is sampled about a quarter of the time")),
        false => (WORST, worst),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_have_their_own_term_and_others_the_worst() {
        let percent = |name: &str| default_term(EnergyDomain::Gpu, name).relative * 100.0;
        assert!((percent("NVIDIA GeForce RTX 2060 SUPER") - 12.7).abs() < 1e-9);
        assert!((percent("NVIDIA GeForce RTX 4090") - 5.3).abs() < 1e-9);
        assert!((percent("NVIDIA GeForce RTX 3090 Ti") - 12.7).abs() < 1e-9, "another board than the 3090");
        assert!((percent("NVIDIA L4") - 12.7).abs() < 1e-9);
        assert!(default_term(EnergyDomain::Gpu, "NVIDIA H100 PCIe").basis.contains("a quarter of the time"));
        assert!(default_term(EnergyDomain::CpuPackages, "").basis.starts_with("assumed"));
    }
}
