//! Readings under the names that others know: DCGM exporter's for GPUs, with its units and labels, where it has one;
//! ours in base units for the rest.

use fleet_common::telemetry::{Channel, Series};
use fleet_observe::page::{Metric, Page};

use crate::device::Slot;

fleet_observe::metrics! {
    POWER = Gauge "DCGM_FI_DEV_POWER_USAGE", "Power of the GPU, in W";
    POWER_INSTANT = Gauge "DCGM_FI_DEV_POWER_USAGE_INSTANT", "Power of the GPU at this moment, in W";
    POWER_LIMIT = Gauge "DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "Power limit that is enforced on the GPU, in W";
    ENERGY = Untyped "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "Energy of the GPU since the driver was loaded, in mJ: a counter";
    TEMPERATURE = Gauge "DCGM_FI_DEV_GPU_TEMP", "Temperature of the GPU, in C";
    SM_CLOCK = Gauge "DCGM_FI_DEV_SM_CLOCK", "Clock of the GPU's multiprocessors, in MHz";
    MEMORY_CLOCK = Gauge "DCGM_FI_DEV_MEM_CLOCK", "Clock of the GPU's memory, in MHz";
    UTILISATION = Gauge "DCGM_FI_DEV_GPU_UTIL", "Share of time in which a kernel ran, in %";
    MEMORY_UTILISATION = Gauge "DCGM_FI_DEV_MEM_COPY_UTIL", "Share of time in which memory was read or written, in %";
    MEMORY_USED = Gauge "DCGM_FI_DEV_FB_USED", "Memory in use on the GPU by all processes, in MiB";
    THROTTLE = Gauge "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
        "Why the GPU's clocks are lower than they could be, as NVML's bits";
    LINK_GENERATION = Gauge "DCGM_FI_DEV_PCIE_LINK_GEN", "PCIe generation of the GPU's link at this moment";
    LINK_WIDTH = Gauge "DCGM_FI_DEV_PCIE_LINK_WIDTH", "PCIe lanes of the GPU's link at this moment";
    POWER_AVERAGE = Gauge "fleet_gpu_power_average_watts",
        "Power of the GPU as a mean over the driver's window, in watts";
    OTHERS = Gauge "fleet_gpu_other_processes", "Processes that compute on the GPU and are not the trial's";
    ALLOCATED = Gauge "fleet_allocator_live_bytes", "Bytes that tensors hold in the worker's allocator";
    ON_BOARD = Gauge "fleet_worker_gpu_bytes", "Memory that the worker process holds on the GPU, its context included, in bytes";
    RESIDENT = Gauge "fleet_worker_resident_bytes", "Resident memory of the worker process, in bytes";
    PACKAGES = Counter "fleet_cpu_package_energy_joules_total",
        "Energy of all CPU packages of the machine since the trial began, in joules";
    DRAM = Counter "fleet_cpu_dram_energy_joules_total",
        "Energy of the memory beside the CPU packages since the trial began, in joules";
    SENSOR_POWER = Gauge "fleet_sensor_power_watts",
        "Power of a hwmon sensor, in watts";
    SENSOR_ENERGY = Counter "fleet_sensor_energy_joules_total",
        "Energy of a hwmon sensor since the trial began, in joules";
    SENSOR_TEMPERATURE = Gauge "fleet_sensor_temperature_celsius", "Temperature of a hwmon sensor, in degrees Celsius";
    WALL_POWER = Gauge "fleet_wall_power_watts", "Power of the whole machine at the wall, in watts";
    WALL_SKEW = Gauge "fleet_wall_skew_seconds", "How far the wall meter's reading may be from its time, in seconds";
}

/// Whose labels a metric has.
enum Labels {
    /// DCGM exporter's, and the slot.
    Gpu,
    /// The slot.
    Slot,
    /// The slot, and which of several sensors.
    Sensor,
}

/// Where a series stands on the page, and what a value in its base unit is multiplied by to be in the metric's unit.
fn place(series: Series) -> (Metric, f64, Labels) {
    use Labels::{Gpu, Sensor, Slot};
    const MIB: f64 = (1 << 20) as f64;
    match series {
        Series::GpuPowerMilliwatts => (POWER, 1.0, Gpu),
        Series::GpuPowerInstantMilliwatts => (POWER_INSTANT, 1.0, Gpu),
        Series::GpuPowerLimitMilliwatts => (POWER_LIMIT, 1.0, Gpu),
        Series::GpuEnergyMillijoules => (ENERGY, 1e3, Gpu),
        Series::GpuTemperatureCelsius => (TEMPERATURE, 1.0, Gpu),
        Series::GpuSmClockMegahertz => (SM_CLOCK, 1e-6, Gpu),
        Series::GpuMemoryClockMegahertz => (MEMORY_CLOCK, 1e-6, Gpu),
        Series::GpuUtilisationPercent => (UTILISATION, 1e2, Gpu),
        Series::GpuMemoryUtilisationPercent => (MEMORY_UTILISATION, 1e2, Gpu),
        Series::GpuMemoryUsedBytes => (MEMORY_USED, 1.0 / MIB, Gpu),
        Series::GpuThrottleReasons => (THROTTLE, 1.0, Gpu),
        Series::GpuPcieGeneration => (LINK_GENERATION, 1.0, Gpu),
        Series::GpuPcieWidth => (LINK_WIDTH, 1.0, Gpu),
        Series::GpuPowerAverageMilliwatts => (POWER_AVERAGE, 1.0, Slot),
        Series::GpuOtherProcesses => (OTHERS, 1.0, Slot),
        Series::AllocatorLiveBytes => (ALLOCATED, 1.0, Slot),
        Series::GpuProcessMemoryBytes => (ON_BOARD, 1.0, Slot),
        Series::ProcessResidentBytes => (RESIDENT, 1.0, Slot),
        Series::CpuPackageEnergyMicrojoules => (PACKAGES, 1.0, Slot),
        Series::CpuDramEnergyMicrojoules => (DRAM, 1.0, Slot),
        Series::SensorPowerMicrowatts => (SENSOR_POWER, 1.0, Sensor),
        Series::SensorEnergyMicrojoules => (SENSOR_ENERGY, 1.0, Sensor),
        Series::SensorTemperatureMillicelsius => (SENSOR_TEMPERATURE, 1.0, Sensor),
        Series::WallPowerMilliwatts => (WALL_POWER, 1.0, Slot),
        Series::WallSkewMicroseconds => (WALL_SKEW, 1.0, Slot),
    }
}

/// Puts a reading on a page; a sensor without a name goes by its number.
pub(super) fn put(page: &mut Page, host: &str, slot: &Slot, channel: Channel, sensor: Option<&str>, value: i64) {
    let (metric, factor, labels) = place(channel.series);
    let (_, scale) = channel.series.unit();
    // Of powers of ten, both: what was an integer in the metric's unit stays one.
    let value = round(value as f64 * scale * factor);
    let id = ("slot", slot.id.as_str());
    match (labels, &slot.gpu) {
        (Labels::Gpu, Some(gpu)) => {
            let (index, device) = (gpu.index.to_string(), format!("nvidia{}", gpu.index));
            let labels = [
                ("gpu", index.as_str()),
                // Not the serial itself, as in records.
                ("UUID", &gpu.gpu.uuid_hash),
                ("device", &device),
                ("modelName", &gpu.gpu.name),
                ("Hostname", host),
                id,
            ];
            page.put(&metric, labels, value);
        }
        (Labels::Sensor, _) => {
            let number = channel.number.to_string();
            page.put(&metric, [id, ("sensor", sensor.unwrap_or(&number))], value);
        }
        (Labels::Slot | Labels::Gpu, _) => page.put(&metric, [id], value),
    }
}

/// Without the last digits, which a product of powers of ten leaves behind.
fn round(value: f64) -> f64 {
    format!("{value:.12e}").parse().unwrap_or(value)
}
