//! GPUs as NVML tells of them, against a library with its symbols (`tests/stand_ins/nvml.c`). What a real driver
//! answers can only be seen on a real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::path::Path;
use std::sync::Arc;

use fleet_agent::device::{Nvidia, Slot};
use fleet_agent::meter::{self, Cache, Meter, NvmlMeter, Places, Reading};
use fleet_common::record::EnergyDomain;
use fleet_common::telemetry::Series;
use support::{Played, first, nowhere, seconds};

fn of(slot: &Slot, played: &Played) -> meter::SlotMeters {
    let cache = Cache::open(Path::new("/nowhere"));
    meter::of(slot, "host", Some(&played.nvidia()), &nowhere(), None, &cache)
}

fn value(readings: &[Reading], series: Series) -> Option<i64> {
    readings.iter().find(|r| r.channel == series.into()).map(|r| r.value)
}

#[test]
fn a_board_is_described_and_those_that_cannot_be_used_are_named_with_the_reason() {
    let played = Played::without_script();
    let boards = played.nvidia().boards(None, None);
    let [slot] = &boards.slots[..] else { panic!("{boards:?}") };
    assert_eq!((slot.id.as_str(), slot.hardware.as_str()), ("cuda:0", "NVIDIA Stand-in A"));
    assert_eq!(slot.memory_bytes, 8 << 30);
    let gpu = &slot.gpu.as_ref().unwrap().gpu;
    assert_eq!((gpu.compute_capability.as_str(), gpu.driver.as_str()), ("8.9", "580.65.06"));
    assert_eq!((gpu.power_limit_milliwatts, gpu.default_power_limit_milliwatts), (Some(200_000), Some(220_000)));
    assert_eq!((gpu.vbios.as_deref(), gpu.cuda_driver.as_deref()), (Some("95.02.18.00.01"), Some("13.0")));
    assert_eq!((gpu.max_pcie_generation, gpu.max_pcie_width), (Some(4), Some(16)));
    assert!(!gpu.uuid_hash.contains("GPU"), "records do not publish serials");
    let left: Vec<(&str, &str)> = boards.left_out.iter().map(|l| (l.name.as_str(), l.why.as_str())).collect();
    assert!(
        matches!(left[..], [("cuda:1", mig), ("cuda:2", lost)] if mig.contains("MIG") && lost.contains("memory")),
        "{left:?}"
    );
}

#[test]
fn everything_that_a_board_tells_is_read_fast_things_always_and_slow_things_once_a_second() {
    let played = Played::new(
        "boards 1\n0 power 0:150\n0 instant 1\n0 averaging 1\n0 others 0:2\n0 throttle 0:4 1:8\n0 temperature 0:61\n",
    );
    let slot = first(&played);
    let mut meters = of(&slot, &played);
    let device = meters.covered.device.clone().unwrap();
    assert_eq!(device.gauge.domain, EnergyDomain::Gpu);
    assert_eq!(device.describe().sources, ["NVML energy counter", "NVML power", "NVML instant power"]);
    let mut at = |t: f64| {
        played.set(t);
        meters.meters[0].read(seconds(t))
    };
    let (first, fast, slow) = (at(0.0), at(0.4), at(1.0));
    for series in [Series::GpuPowerMilliwatts, Series::GpuPowerInstantMilliwatts, Series::GpuPowerAverageMilliwatts] {
        assert_eq!(value(&fast, series), Some(150_000), "{series:?}");
    }
    let millijoules = |readings: &[Reading]| value(readings, Series::GpuEnergyMillijoules).unwrap();
    assert_eq!(millijoules(&slow) - millijoules(&first), 150_000);
    assert_eq!(value(&fast, Series::GpuTemperatureCelsius), None);
    for (series, expected) in [
        (Series::GpuUtilisationPercent, 97),
        (Series::GpuMemoryUtilisationPercent, 40),
        (Series::GpuTemperatureCelsius, 61),
        (Series::GpuMemoryUsedBytes, 1 << 30),
        (Series::GpuSmClockMegahertz, 1500),
        (Series::GpuMemoryClockMegahertz, 7000),
        (Series::GpuThrottleReasons, 8),
        (Series::GpuPowerLimitMilliwatts, 200_000),
        (Series::GpuPcieGeneration, 4),
        (Series::GpuPcieWidth, 8),
        (Series::GpuOtherProcesses, 2),
    ] {
        assert_eq!(value(&slow, series), Some(expected), "{series:?}");
    }
    assert_eq!(meters.meters[0].remarks(), Vec::<String>::new());
}

#[test]
fn the_trials_own_process_is_none_of_the_others() {
    let played = Played::new("boards 1\n0 others 0:2\n");
    let others = |worker| {
        let mut meter = NvmlMeter::new(played.nvidia(), 0, worker);
        value(&meter.read(seconds(0.0)), Series::GpuOtherProcesses)
    };
    assert_eq!(others(Some(400_001)), Some(1));
    assert_eq!(others(None), Some(2));
    assert_eq!(others(Some(17)), Some(1), "a container knows itself under another number than the driver");
}

#[test]
fn a_board_without_a_counter_is_metered_by_its_power_and_one_without_either_not_at_all() {
    let played = Played::new("boards 1\n0 counter 0\n");
    let slot = first(&played);
    let mut meters = of(&slot, &played);
    assert_eq!(meters.covered.device.clone().unwrap().describe().sources, ["NVML power"]);
    let readings = meters.meters[0].read(seconds(0.0));
    assert_eq!(value(&readings, Series::GpuPowerMilliwatts), Some(150_000));
    assert_eq!(value(&readings, Series::GpuEnergyMillijoules), None);

    let played = Played::new("boards 1\n0 counter 0\n0 refuse power 3\n");
    let why = of(&first(&played), &played).covered.device.unwrap_err();
    assert!(why.contains("neither power nor energy"), "{why}");
}

#[test]
fn a_board_that_refuses_vanishes_or_talks_nonsense_is_named() {
    let played = Played::new("boards 1\n0 refuse power 4\n0 refuse energy 4\n");
    let why = of(&first(&played), &played).covered.device.unwrap_err();
    assert!(why.contains("does not let this user read"), "{why}");
    let why = NvmlMeter::new(played.nvidia(), 7, None).energy().unwrap_err();
    assert!(why.contains("no such GPU"), "{why}");

    let remarks_at = |script: &str, t: f64| {
        let played = Played::new(script);
        played.set(0.0);
        let mut meter = NvmlMeter::new(played.nvidia(), 0, None);
        meter.read(seconds(0.0));
        played.set(t);
        let readings = meter.read(seconds(t));
        (readings, meter.remarks().join("; "))
    };
    let (readings, remarks) = remarks_at("boards 1\n0 lost 5\n", 6.0);
    assert!(readings.is_empty() && remarks.contains("fell off the bus"), "{remarks}");
    let (_, remarks) = remarks_at("boards 1\n0 reset 5\n", 6.0);
    assert!(remarks.contains("went backwards"), "{remarks}");
    let (readings, remarks) = remarks_at("boards 1\n0 power 0:150 1:150 1:20000\n", 6.0);
    assert_eq!(value(&readings, Series::GpuPowerMilliwatts), None);
    assert!(remarks.contains("no board's power"), "{remarks}");
    let (readings, _) = remarks_at("boards 1\n0 instant 1\n0 nan 1\n", 6.0);
    assert_eq!(value(&readings, Series::GpuPowerInstantMilliwatts), None);
    assert_eq!(value(&readings, Series::GpuPowerMilliwatts), Some(150_000), "what is a number is kept");
}

#[test]
fn a_driver_that_is_not_well_is_told_with_what_to_do() {
    for (init, words) in [("9", "not loaded"), ("18", "reboot"), ("4", "container"), ("999", "does not answer")] {
        let why = Played::new(&format!("init {init}\n")).open().unwrap_err();
        assert!(why.contains(words), "{init}: {why}");
    }
    let why = Nvidia::open(Some(Path::new("/nowhere/libnvidia-ml.so.1"))).unwrap_err().to_string();
    assert_eq!(why, "no NVIDIA driver is installed");
    let _: (Arc<Nvidia>, Places) = (Played::new("").nvidia(), nowhere());
}

#[test]
fn what_is_wrong_with_a_board_is_told_and_what_may_be_a_programs_fault_is_not() {
    let played = Played::new("boards 1\n0 ecc 0:0 5:2\n0 pending 0:0 9:1\n");
    let slot = first(&played);
    let fault = |t: f64| {
        played.set(t);
        played.nvidia().fault(slot.gpu.as_ref().unwrap())
    };
    assert_eq!(fault(1.0), None);
    assert!(fault(6.0).is_some_and(|f| f.starts_with("2 ECC errors")));
    let pending = Played::new("boards 1\n0 pending 0:1\n");
    let gpu = first(&pending).gpu.unwrap();
    assert!(pending.nvidia().fault(&gpu).is_some_and(|f| f.contains("memory pages")));
    let silent = Played::new("boards 1\n0 refuse ecc 3\n0 refuse pending 3\n");
    let gpu = first(&silent).gpu.unwrap();
    assert_eq!(silent.nvidia().fault(&gpu), None, "a board without ECC is no broken one");
}

#[test]
fn the_drivers_reports_about_a_board_arrive() {
    // A program's fault first, then the board's.
    let played = Played::new("boards 1\n0 xid 1:31 2:79\n");
    played.set(0.0);
    let gpu = first(&played).gpu.unwrap();
    let (mut t, mut told) = (0.0, Vec::new());
    played.nvidia().watch(&[gpu], |fault| {
        told.extend(fault.map(|(gpu, fault)| (gpu.index, fault)));
        t += 1.0;
        played.set(t);
        told.is_empty() && t < 20.0
    });
    assert!(matches!(&told[..], [(0, fault)] if fault.starts_with("Xid 79")), "{told:?}");
}
