//! A GPU's own sensors.

use std::sync::Arc;

use fleet_common::telemetry::Series;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;

use super::{Meter, Reading};
use crate::device::Nvidia;

/// One board.
pub struct NvmlMeter {
    nvidia: Arc<Nvidia>,
    index: u32,
}

impl NvmlMeter {
    /// The board that NVML calls `index`.
    pub fn new(nvidia: Arc<Nvidia>, index: u32) -> Self {
        Self { nvidia, index }
    }

    fn device(&self) -> Result<Device<'_>, NvmlError> {
        self.nvidia.nvml().device_by_index(self.index)
    }

    /// Whether the board tells power or energy at all, or why not.
    ///
    /// # Errors
    /// Neither can be read.
    pub fn energy(&self) -> Result<(), String> {
        let device = self.device().map_err(|e| format!("the GPU does not answer: {e}"))?;
        match (device.total_energy_consumption(), device.power_usage()) {
            (Err(_), Err(error)) => Err(format!("the GPU tells neither power nor energy: {error}")),
            _ => Ok(()),
        }
    }
}

impl Meter for NvmlMeter {
    fn read(&mut self) -> Vec<Reading> {
        let Ok(device) = self.device() else { return Vec::new() };
        let memory = device.memory_info().ok();
        let utilisation = device.utilization_rates().ok();
        // Power and energy first: the closer to the time stamp, the better.
        [
            device.power_usage().ok().map(|mw| (Series::GpuPowerMilliwatts, i64::from(mw))),
            device.total_energy_consumption().ok().map(|mj| (Series::GpuEnergyMillijoules, mj as i64)),
            memory.map(|m| (Series::GpuMemoryUsedBytes, m.used as i64)),
            device.temperature(TemperatureSensor::Gpu).ok().map(|c| (Series::GpuTemperatureCelsius, i64::from(c))),
            utilisation.map(|u| (Series::GpuUtilisationPercent, i64::from(u.gpu))),
        ]
        .into_iter()
        .flatten()
        .map(|(series, value)| (series.into(), value))
        .collect()
    }
}
