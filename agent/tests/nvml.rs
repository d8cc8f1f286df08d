//! GPUs as NVML tells of them, against a library with its symbols (`tests/stand_ins/nvml.c`). What a real driver
//! answers can only be seen on a real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_agent::device::{Nvidia, Slot};
use fleet_agent::meter::{self, POWERCAP};
use fleet_common::record::EnergyDomain;
use fleet_common::telemetry::Series;

fn stand_in(dir: &Path, variant: &[&str]) -> PathBuf {
    let library = dir.join("libnvidia-ml.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/stand_ins/nvml.c");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).args(variant).status();
    assert!(status.unwrap().success(), "the stand-in does not compile");
    library
}

fn open(variant: &[&str]) -> (tempfile::TempDir, Result<Arc<Nvidia>, String>) {
    let dir = tempfile::tempdir().unwrap();
    let nvidia = Nvidia::open(Some(&stand_in(dir.path(), variant)));
    (dir, nvidia.map(Arc::new).map_err(|e| e.to_string()))
}

fn first(nvidia: &Nvidia) -> Slot {
    nvidia.boards(None, None).slots.remove(0)
}

#[test]
fn a_board_is_described_and_those_that_cannot_be_used_are_named_with_the_reason() {
    let (_dir, nvidia) = open(&[]);
    let boards = nvidia.unwrap().boards(None, None);
    let [slot] = &boards.slots[..] else { panic!("{boards:?}") };
    assert_eq!((slot.id.as_str(), slot.hardware.as_str()), ("cuda:0", "NVIDIA Stand-in A"));
    assert_eq!(slot.memory_bytes, 8 << 30);
    let gpu = slot.gpu.as_ref().unwrap();
    assert_eq!((gpu.gpu.compute_capability.as_str(), gpu.gpu.driver.as_str()), ("8.9", "580.65.06"));
    assert_eq!(gpu.gpu.power_limit_milliwatts, Some(200_000));
    assert!(!gpu.gpu.uuid_hash.contains("GPU"), "records do not publish serials");
    let left: Vec<(&str, &str)> = boards.left_out.iter().map(|l| (l.name.as_str(), l.why.as_str())).collect();
    assert!(
        matches!(left[..], [("cuda:1", mig), ("cuda:2", lost)] if mig.contains("MIG") && lost.contains("memory")),
        "{left:?}"
    );
}

#[test]
fn a_board_is_metered_by_its_counter() {
    let (_dir, nvidia) = open(&[]);
    let nvidia = nvidia.unwrap();
    let mut meters = meter::of(&first(&nvidia), Some(&nvidia), Path::new(POWERCAP));
    assert_eq!(meters.energy, Ok(EnergyDomain::Gpu));
    let value = |readings: &[meter::Reading], series: Series| {
        readings.iter().find(|(channel, _)| *channel == series.into()).map(|(_, v)| *v)
    };
    let from = Instant::now();
    let before = meters.meters[0].read();
    std::thread::sleep(Duration::from_millis(400));
    let after = meters.meters[0].read();
    let seconds = from.elapsed().as_secs_f64();
    let joules = [&after, &before].map(|r| value(r, Series::GpuEnergyMillijoules).unwrap() as f64 / 1e3);
    let watts = (joules[0] - joules[1]) / seconds;
    assert!((120.0..160.0).contains(&watts), "the stand-in draws 150 W, {watts} were read");
    assert_eq!(value(&after, Series::GpuPowerMilliwatts), Some(150_000));
    assert_eq!(value(&after, Series::GpuMemoryUsedBytes), Some(1 << 30));
    assert_eq!(value(&after, Series::GpuTemperatureCelsius), Some(61));
    assert_eq!(value(&after, Series::GpuUtilisationPercent), Some(97));
}

#[test]
fn a_board_without_a_counter_is_metered_by_its_power_and_one_without_either_not_at_all() {
    let (_dir, nvidia) = open(&["-DENERGY=0"]);
    let nvidia = nvidia.unwrap();
    let mut meters = meter::of(&first(&nvidia), Some(&nvidia), Path::new(POWERCAP));
    assert_eq!(meters.energy, Ok(EnergyDomain::Gpu));
    let readings = meters.meters[0].read();
    assert!(readings.contains(&(Series::GpuPowerMilliwatts.into(), 150_000)));
    assert!(readings.iter().all(|(channel, _)| channel.series != Series::GpuEnergyMillijoules));

    let (_dir, nvidia) = open(&["-DENERGY=0", "-DPOWER=0"]);
    let nvidia = nvidia.unwrap();
    let meters = meter::of(&first(&nvidia), Some(&nvidia), Path::new(POWERCAP));
    assert!(meters.energy.unwrap_err().contains("neither power nor energy"));
}

#[test]
fn a_driver_that_is_not_well_is_told_with_what_to_do() {
    for (init, words) in [("9", "not loaded"), ("18", "reboot"), ("4", "container"), ("999", "does not answer")] {
        let (_dir, nvidia) = open(&[&format!("-DINIT={init}")]);
        let why = nvidia.err().unwrap();
        assert!(why.contains(words), "{init}: {why}");
    }
    let why = Nvidia::open(Some(Path::new("/nowhere/libnvidia-ml.so.1"))).unwrap_err().to_string();
    assert_eq!(why, "no NVIDIA driver is installed");
}
