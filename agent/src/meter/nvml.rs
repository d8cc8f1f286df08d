//! A GPU's own sensors.

use std::sync::Arc;

use fleet_common::telemetry::{MonoNanos, Series};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT};

use super::{Meter, Reading, Remarks};
use crate::device::Nvidia;

/// What changes slowly, or takes a driver long to tell, is read once in so many nanoseconds.
const SLOWLY: u64 = 1_000_000_000;
/// No board draws more; what says so is no power.
const MOST_MILLIWATTS: u64 = 10_000_000;

/// One board.
pub struct NvmlMeter {
    nvidia: Arc<Nvidia>,
    index: u32,
    /// The trial's process, which is not another one.
    worker: Option<u32>,
    /// When the slow ones were read last.
    slow_at: Option<MonoNanos>,
    energy: Option<u64>,
    remarks: Remarks,
}

impl NvmlMeter {
    /// The board that NVML calls `index`; `worker` is the process of the trial that runs on it.
    pub fn new(nvidia: Arc<Nvidia>, index: u32, worker: Option<u32>) -> Self {
        Self { nvidia, index, worker, slow_at: None, energy: None, remarks: Remarks::default() }
    }

    /// Whether the board tells energy and power, or why it tells neither.
    ///
    /// # Errors
    /// Neither can be read; in words.
    pub fn energy(&self) -> Result<Tells, String> {
        let device = self.nvidia.nvml().device_by_index(self.index).map_err(|e| in_words(&e))?;
        let (counter, power) = (device.total_energy_consumption(), device.power_usage());
        match (&counter, &power) {
            (Err(_), Err(NvmlError::NoPermission)) => Err(format!(
                "the driver does not let this user read the GPU's power; allow it, or in a container start it with access \
                 to the GPUs ({})",
                in_words(&NvmlError::NoPermission)
            )),
            (Err(_), Err(error)) => Err(format!("the GPU tells neither power nor energy: {}", in_words(error))),
            _ => Ok(Tells {
                counter: counter.is_ok(),
                power: power.is_ok(),
                instant: fields(&device).is_some_and(|[instant, _]| instant.is_some()),
            }),
        }
    }

    fn fast(&mut self, device: &Device<'_>, now: MonoNanos, out: &mut Vec<Reading>) {
        // Power and energy first: the closer to the time stamp, the better.
        if let Some(mw) = self.told("power", device.power_usage()) {
            self.power(Series::GpuPowerMilliwatts, u64::from(mw), now, out);
        }
        if let Some(mj) = self.told("energy counter", device.total_energy_consumption()) {
            if let Some(before) = self.energy.replace(mj)
                && mj < before
            {
                self.remarks.make(format!("the GPU's energy counter went backwards, from {before} to {mj} mJ"));
            }
            out.extend(reading(now, Series::GpuEnergyMillijoules, mj));
        }
        if let Some([instant, average]) = fields(device) {
            for (series, value) in
                [(Series::GpuPowerInstantMilliwatts, instant), (Series::GpuPowerAverageMilliwatts, average)]
            {
                if let Some(mw) = value {
                    self.power(series, mw, now, out);
                }
            }
        }
        if let Some(rates) = self.told("utilisation", device.utilization_rates()) {
            out.extend(reading(now, Series::GpuUtilisationPercent, rates.gpu));
            out.extend(reading(now, Series::GpuMemoryUtilisationPercent, rates.memory));
        }
    }

    fn power(&mut self, series: Series, milliwatts: u64, now: MonoNanos, out: &mut Vec<Reading>) {
        if milliwatts > MOST_MILLIWATTS {
            self.remarks.make(format!("{} said {milliwatts} mW, which is no board's power", series.name()));
        } else {
            out.extend(reading(now, series, milliwatts));
        }
    }

    fn slow(&mut self, device: &Device<'_>, now: MonoNanos, out: &mut Vec<Reading>) {
        let celsius = self.told("temperature", device.temperature(TemperatureSensor::Gpu));
        let memory = self.told("memory", device.memory_info()).map(|m| m.used);
        let clock = |device: &Device<'_>, clock| device.clock_info(clock);
        let sm = self.told("clocks", clock(device, Clock::SM));
        let memory_clock = self.told("clocks", clock(device, Clock::Memory));
        let reasons = self.told("throttle reasons", device.current_throttle_reasons()).map(|r| r.bits());
        let limit = self.told("power limit", device.enforced_power_limit());
        let generation = self.told("PCIe link", device.current_pcie_link_gen());
        let width = self.told("PCIe link", device.current_pcie_link_width());
        let processes = self.told("processes", device.running_compute_processes());
        let others = processes.as_ref().map(|processes| {
            // A container sees itself under other numbers than the driver does: then one of them is ours.
            processes.len().saturating_sub(usize::from(self.worker.is_some())) as u64
        });
        let ours = processes.iter().flatten().find(|p| Some(p.pid) == self.worker);
        let ours = ours.and_then(|p| match p.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        });
        out.extend(ours.and_then(|v| reading(now, Series::GpuProcessMemoryBytes, v)));
        out.extend(celsius.and_then(|v| reading(now, Series::GpuTemperatureCelsius, v)));
        out.extend(memory.and_then(|v| reading(now, Series::GpuMemoryUsedBytes, v)));
        out.extend(sm.and_then(|v| reading(now, Series::GpuSmClockMegahertz, v)));
        out.extend(memory_clock.and_then(|v| reading(now, Series::GpuMemoryClockMegahertz, v)));
        out.extend(reasons.and_then(|v| reading(now, Series::GpuThrottleReasons, v)));
        out.extend(limit.and_then(|v| reading(now, Series::GpuPowerLimitMilliwatts, v)));
        out.extend(generation.and_then(|v| reading(now, Series::GpuPcieGeneration, v)));
        out.extend(width.and_then(|v| reading(now, Series::GpuPcieWidth, v)));
        out.extend(others.and_then(|v| reading(now, Series::GpuOtherProcesses, v)));
    }

    /// What the driver told; what a board does not have is no remark, everything else is.
    fn told<T>(&mut self, what: &str, answer: Result<T, NvmlError>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => None,
            Err(error) => {
                self.remarks.make(format!("the GPU's {what} could not be read: {}", in_words(&error)));
                None
            }
        }
    }
}

/// What a board tells of energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tells {
    /// A counter.
    pub counter: bool,
    /// Power, averaged or not.
    pub power: bool,
    /// Power of the moment beside it.
    pub instant: bool,
}

/// Power of the moment and on average, milliwatts, where the driver tells them apart; `None` where it knows no such
/// question.
fn fields(device: &Device<'_>) -> Option<[Option<u64>; 2]> {
    let ids = [FieldId(NVML_FI_DEV_POWER_INSTANT), FieldId(NVML_FI_DEV_POWER_AVERAGE)];
    let answers = device.field_values_for(&ids).ok()?;
    let mut values = answers.into_iter().map(|answer| match answer.ok()?.value.ok()? {
        SampleValue::U32(mw) => Some(u64::from(mw)),
        SampleValue::U64(mw) => Some(mw),
        SampleValue::I64(mw) => u64::try_from(mw).ok(),
        SampleValue::F64(mw) => (mw.is_finite() && mw >= 0.0).then_some(mw as u64),
    });
    Some([values.next()?, values.next()?])
}

fn reading(at: MonoNanos, series: Series, value: impl TryInto<i64>) -> Option<Reading> {
    Some(Reading { at, channel: series.into(), value: value.try_into().ok()? })
}

/// What an error means for someone who owns the machine.
fn in_words(error: &NvmlError) -> String {
    match error {
        NvmlError::GpuLost => "it fell off the bus, or is inaccessible; a reboot brings it back".to_owned(),
        NvmlError::NoPermission => "no permission".to_owned(),
        NvmlError::InvalidArg => "there is no such GPU".to_owned(),
        NvmlError::ResetRequired => "it needs a reset before it can be used again".to_owned(),
        other => other.to_string(),
    }
}

impl Meter for NvmlMeter {
    fn name(&self) -> String {
        format!("NVML, GPU {}", self.index)
    }

    fn read(&mut self, now: MonoNanos) -> Vec<Reading> {
        let mut out = Vec::with_capacity(16);
        let nvidia = self.nvidia.clone();
        let Some(device) = self.told("handle", nvidia.nvml().device_by_index(self.index)) else { return out };
        self.fast(&device, now, &mut out);
        if self.slow_at.is_none_or(|at| now.0.saturating_sub(at.0) >= SLOWLY) {
            self.slow_at = Some(now);
            self.slow(&device, now, &mut out);
        }
        out
    }

    fn remarks(&mut self) -> Vec<String> {
        self.remarks.take()
    }
}
