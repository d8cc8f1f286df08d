use fleet_common::plan::CellSettings;
use fleet_common::record::{Gpu, OutcomeClass};
use fleet_common::telemetry::Series;
use fleet_observe::exposition::{self, Exposition};

use super::*;
use crate::device::GpuSlot;

fn gpu() -> Slot {
    let gpu = Gpu {
        name: "NVIDIA Stand-in A".into(),
        uuid_hash: "0123456789abcdef".into(),
        memory_bytes: 8 << 30,
        driver: "1".into(),
        compute_capability: "8.9".into(),
        power_limit_milliwatts: None,
        ..Gpu::default()
    };
    Slot {
        id: "cuda:0".parse().expect("a slot"),
        hardware: "NVIDIA Stand-in A [50 W]".parse().expect("a class"),
        memory_bytes: 8 << 30,
        gpu: Some(GpuSlot { gpu, index: 3, uuid: "GPU-secret".into() }),
    }
}

fn cpu() -> Slot {
    Slot { id: "cpu".parse().expect("a slot"), hardware: "CPU".parse().expect("a class"), memory_bytes: 1, gpu: None }
}

fn settings() -> CellSettings {
    let toml = "name = \"c\"\nbudget = \"1GiB\"\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\n\
                checkpointing = \"static\"\ndataset = \"textures\"\n";
    let campaign = fleet_common::spec::Campaign::parse("c.toml", toml).expect("a campaign");
    let identity = fleet_common::plan::DatasetIdentity { fingerprint: "f".repeat(64), classes: 2, train: 10, test: 10 };
    let mut resolution = fleet_common::plan::Resolution::default();
    resolution.datasets.insert("textures".to_owned().try_into().expect("a name"), Ok(identity));
    fleet_common::plan::plan(&campaign, &resolution).cells[0].settings()
}

fn read(metrics: &Metrics, progress: Vec<v1::Progress>) -> Exposition {
    let text = metrics.text(&Standing { progress, undelivered: 2 }, Path::new("/"));
    assert!(!text.contains("secret"), "no serials: {text}");
    exposition::read(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn a_gpu_is_read_as_from_dcgm_exporter_in_its_units() {
    let metrics = Metrics::new("a", "h", &[gpu()]);
    let _at_work = metrics.begin(&gpu(), &settings(), BTreeMap::new(), Waiting::default);
    let watched = metrics.watched(&gpu().id);
    let readings = [
        (Series::GpuPowerMilliwatts, 150_300, "DCGM_FI_DEV_POWER_USAGE", 150.3),
        (Series::GpuPowerInstantMilliwatts, 151_000, "DCGM_FI_DEV_POWER_USAGE_INSTANT", 151.0),
        (Series::GpuPowerLimitMilliwatts, 200_000, "DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 200.0),
        (Series::GpuEnergyMillijoules, 987_654_321, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 987_654_321.0),
        (Series::GpuTemperatureCelsius, 61, "DCGM_FI_DEV_GPU_TEMP", 61.0),
        (Series::GpuSmClockMegahertz, 1_980, "DCGM_FI_DEV_SM_CLOCK", 1_980.0),
        (Series::GpuMemoryClockMegahertz, 7_001, "DCGM_FI_DEV_MEM_CLOCK", 7_001.0),
        (Series::GpuUtilisationPercent, 97, "DCGM_FI_DEV_GPU_UTIL", 97.0),
        (Series::GpuMemoryUtilisationPercent, 29, "DCGM_FI_DEV_MEM_COPY_UTIL", 29.0),
        (Series::GpuMemoryUsedBytes, 3 << 29, "DCGM_FI_DEV_FB_USED", 1_536.0),
        (Series::GpuThrottleReasons, 0x24, "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 36.0),
        (Series::GpuPcieGeneration, 4, "DCGM_FI_DEV_PCIE_LINK_GEN", 4.0),
        (Series::GpuPcieWidth, 16, "DCGM_FI_DEV_PCIE_LINK_WIDTH", 16.0),
    ];
    readings.iter().for_each(|(series, value, ..)| watched.observe((*series).into(), *value));
    let page = read(&metrics, vec![]);
    let labels = [
        ("gpu", "3"),
        ("UUID", "0123456789abcdef"),
        ("device", "nvidia3"),
        ("modelName", "NVIDIA Stand-in A"),
        ("Hostname", "h"),
        ("slot", "cuda:0"),
    ];
    for (series, _, name, expected) in readings {
        assert_eq!(page.value(name, &labels), Some(expected), "{series:?}");
    }
}

#[test]
fn what_dcgm_does_not_know_is_in_base_units_and_sensors_are_told_apart() {
    let metrics = Metrics::new("a", "h", &[cpu()]);
    let temperature = |number| Channel::new(Series::SensorTemperatureMillicelsius, number);
    let sensors = BTreeMap::from([(temperature(0), "amdgpu at 0000:03:00.0, temp1".to_owned())]);
    let _at_work = metrics.begin(&cpu(), &settings(), sensors, Waiting::default);
    let watched = metrics.watched(&cpu().id);
    let readings = [
        (Series::CpuPackageEnergyMicrojoules, 1_234_567, "fleet_cpu_package_energy_joules_total", 1.234_567),
        (Series::CpuDramEnergyMicrojoules, 500_000, "fleet_cpu_dram_energy_joules_total", 0.5),
        (Series::WallPowerMilliwatts, 93_100, "fleet_wall_power_watts", 93.1),
        (Series::WallSkewMicroseconds, 1_500, "fleet_wall_skew_seconds", 0.0015),
        (Series::AllocatorLiveBytes, 1 << 40, "fleet_allocator_live_bytes", 1_099_511_627_776.0),
        (Series::GpuProcessMemoryBytes, 54_321, "fleet_worker_gpu_bytes", 54_321.0),
        (Series::ProcessResidentBytes, 12_345, "fleet_worker_resident_bytes", 12_345.0),
    ];
    readings.iter().for_each(|(series, value, ..)| watched.observe((*series).into(), *value));
    for (number, value) in [(0, 41_500), (513, 38_000)] {
        watched.observe(temperature(number), value);
    }
    let page = read(&metrics, vec![]);
    for (series, _, name, expected) in readings {
        assert_eq!(page.value(name, &[("slot", "cpu")]), Some(expected), "{series:?}");
    }
    for (sensor, expected) in [("amdgpu at 0000:03:00.0, temp1", 41.5), ("513", 38.0)] {
        assert_eq!(page.value("fleet_sensor_temperature_celsius", &[("sensor", sensor)]), Some(expected));
    }
}

#[test]
fn every_series_has_a_place_and_every_metric_that_is_shown_was_declared() {
    let declared = exposition::read(&declared()).expect("a page").types;
    let metrics = Metrics::new("a", "h", &[gpu()]);
    let _at_work = metrics.begin(&gpu(), &settings(), BTreeMap::new(), Waiting::default);
    let watched = metrics.watched(&gpu().id);
    Series::ALL.iter().for_each(|series| watched.observe((*series).into(), 1));
    let page = read(&metrics, vec![]);
    assert_eq!(page.types, declared);
    let shown: std::collections::BTreeSet<&str> = page
        .rows
        .iter()
        .map(|(name, ..)| name.as_str())
        .filter(|n| readings::ALL.iter().any(|m| m.name == *n))
        .collect();
    assert_eq!(shown.len(), Series::ALL.len(), "no two series share a metric");
    assert_eq!(readings::ALL.len(), Series::ALL.len());
}

#[test]
fn a_trial_is_shown_while_it_is_at_work_and_its_readings_while_meters_are_read() {
    let metrics = Metrics::new("a", "h", &[gpu(), cpu()]);
    let watched = metrics.watched(&gpu().id);
    watched.observe(Series::GpuPowerMilliwatts.into(), 1);
    let of = [
        ("slot", "cuda:0"),
        ("method", "lora"),
        ("backbone", "vit_micro"),
        ("checkpointing", "static"),
        ("dataset", "textures"),
    ];
    let progress = |phase: &str| v1::Progress {
        slot: "cuda:0".into(),
        phase: phase.into(),
        done: 3,
        of: 4,
        loss: Some(0.5),
        ..Default::default()
    };
    let idle = read(&metrics, vec![]);
    let absent = ["DCGM_FI_DEV_POWER_USAGE", "fleet_trial_phase", "fleet_spool_samples_waiting"];
    absent.iter().for_each(|name| assert_eq!(idle.with(name, &[]).count(), 0, "{name}"));
    assert_eq!(idle.value("fleet_slot_busy", &[("slot", "cuda:0")]), Some(0.0));
    assert_eq!(idle.value("fleet_outbox_records", &[]), Some(2.0));
    let hardware = [("slot", "cuda:0"), ("agent", "a"), ("host", "h"), ("hardware", "NVIDIA Stand-in A [50 W]")];
    assert_eq!(idle.value("fleet_slot_info", &hardware), Some(1.0));

    let waiting = Waiting { samples: 7, bytes: 90, refused: true };
    let at_work = metrics.begin(&gpu(), &settings(), BTreeMap::new(), move || waiting);
    watched.observe(Series::GpuPowerMilliwatts.into(), 1_000);
    watched.observe(Series::GpuPowerMilliwatts.into(), 2_000);
    let busy = read(&metrics, vec![progress("train")]);
    assert_eq!(busy.value("DCGM_FI_DEV_POWER_USAGE", &[]), Some(2.0), "the latest");
    assert_eq!(busy.with("fleet_trial_phase", &of).map(|r| r.1["phase"].as_str()).collect::<Vec<_>>(), ["train"]);
    assert_eq!(busy.value("fleet_trial_progress_ratio", &of), Some(0.75));
    assert_eq!(busy.value("fleet_trial_loss", &of), Some(0.5));
    assert_eq!(busy.value("fleet_trial_budget_bytes", &of), Some((1_u64 << 30) as f64));
    for (name, expected) in [("samples_waiting", 7.0), ("waiting_bytes", 90.0), ("refused", 1.0)] {
        assert_eq!(busy.value(&format!("fleet_spool_{name}"), &[("slot", "cuda:0")]), Some(expected));
    }
    let slots = ["cuda:0", "cpu"].map(|slot| busy.value("fleet_slot_busy", &[("slot", slot)]));
    assert_eq!(slots, [Some(1.0), Some(0.0)]);

    at_work.meters_end();
    let delivering = read(&metrics, vec![progress("delivering")]);
    assert_eq!(delivering.with("DCGM_FI_DEV_POWER_USAGE", &[]).count(), 0);
    assert_eq!(delivering.value("fleet_trial_phase", &[("phase", "delivering")]), Some(1.0));
    drop(at_work);
    let after = read(&metrics, vec![]);
    absent.iter().for_each(|name| assert_eq!(after.with(name, &[]).count(), 0, "{name}"));
}

#[test]
fn a_reading_that_is_not_renewed_is_absent() {
    let metrics = Metrics::new("a", "h", &[cpu()]);
    let _at_work = metrics.begin(&cpu(), &settings(), BTreeMap::new(), Waiting::default);
    metrics.watched(&cpu().id).observe(Series::WallPowerMilliwatts.into(), 1_000);
    assert_eq!(read(&metrics, vec![]).value("fleet_wall_power_watts", &[]), Some(1.0));
    for work in metrics.work().values_mut() {
        for (at, _) in work.readings.values_mut() {
            *at = at.checked_sub(STALE).expect("the machine has run for longer");
        }
    }
    assert_eq!(read(&metrics, vec![]).value("fleet_wall_power_watts", &[]), None);
}

#[test]
fn counters_begin_at_zero_and_count() {
    let metrics = Metrics::new("a", "h", &[]);
    let value = |name: &str, labels: &[(&str, &str)]| read(&metrics, vec![]).value(name, labels);
    let completed = [("outcome", OutcomeClass::Completed.name())];
    assert_eq!(value("fleet_agent_trials_total", &completed), Some(0.0));
    assert_eq!(value("fleet_coordinator_silence_seconds", &[]), None);
    metrics.counts.ended(OutcomeClass::Completed);
    metrics.counts.reconnects.inc();
    metrics.counts.heard();
    assert_eq!(value("fleet_agent_trials_total", &completed), Some(1.0));
    assert_eq!(value("fleet_upload_reconnects_total", &[]), Some(1.0));
    assert!(value("fleet_coordinator_silence_seconds", &[]).is_some_and(|s| s < 60.0));
}
