//! What is wrong with a board itself, as far as its driver tells: memory errors that could not be corrected, and the
//! driver's error reports (Xid) that are about the device and not about a program that ran on it.

use std::sync::Arc;
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;

use super::{GpuSlot, Nvidia};

/// Reports about the device, by NVIDIA's list of Xid errors; all others may be a program's own fault, such as an access
/// out of bounds (13, 31), or follow from one (43, 45).
const OF_THE_DEVICE: [(u64, &str); 15] = [
    (48, "a memory error that could not be corrected"),
    (61, "a breakpoint of its own microcontroller"),
    (62, "its own microcontroller halted"),
    (63, "a row of its memory is to be replaced"),
    (64, "a row of its memory could not be replaced"),
    (74, "an error of its NVLink"),
    (79, "it fell off the bus"),
    (92, "many memory errors that could be corrected"),
    (94, "a memory error that was contained"),
    (95, "a memory error that was not contained"),
    (109, "a context switch did not end"),
    (119, "its system processor does not answer"),
    (120, "an error of its system processor"),
    (140, "a memory error that was not recovered"),
    (143, "it could not be initialised"),
];

/// What an Xid says about the device; `None` if it may be a program's fault.
fn of_the_device(xid: u64) -> Option<String> {
    let (_, what) = OF_THE_DEVICE.iter().find(|(number, _)| *number == xid)?;
    Some(format!("Xid {xid}: {what}; look at the kernel's log, reset or replace the board, then undrain it"))
}

impl Nvidia {
    /// What counters say is wrong with a board; `None` if nothing, or if the board does not count.
    pub fn fault(&self, gpu: &GpuSlot) -> Option<String> {
        let device = match self.nvml().device_by_index(gpu.index) {
            Ok(device) => device,
            Err(NvmlError::GpuLost) => return Some("it fell off the bus; a reboot may bring it back".to_owned()),
            Err(_) => return None,
        };
        let errors = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
        if let Ok(errors @ 1..) = errors {
            return Some(format!(
                "{errors} ECC errors that could not be corrected since the driver was loaded; reset the board, then undrain it"
            ));
        }
        if device.are_pages_pending_retired().is_ok_and(|pending| pending) {
            return Some("memory pages are to be retired; reset the board, then undrain it".to_owned());
        }
        None
    }

    /// Waits for the driver's reports about boards and tells each that is about the device; ends when `tell` says so
    /// (it is asked every second with `None`), or at once where the driver reports nothing.
    pub fn watch(self: Arc<Self>, gpus: &[GpuSlot], mut tell: impl FnMut(Option<(&GpuSlot, String)>) -> bool) {
        let Ok(mut events) = self.nvml().create_event_set() else { return };
        for gpu in gpus {
            let Ok(device) = self.nvml().device_by_index(gpu.index) else { continue };
            events = match device.register_events(EventTypes::CRITICAL_XID_ERROR, events) {
                Ok(events) => events,
                // A failure takes the set with it; the counters are still read.
                Err(error) => return tracing::debug!(%error, "the driver reports no errors of boards"),
            };
        }
        loop {
            let reported = match events.wait(1000) {
                Ok(event) => event.device.uuid().ok().zip(event.event_data),
                Err(NvmlError::Timeout) => None,
                // A board that is lost answers at once, each time.
                Err(_) => {
                    std::thread::sleep(Duration::from_secs(1));
                    None
                }
            };
            let fault = reported.and_then(|(uuid, xid)| {
                let XidError::Value(xid) = xid else { return None };
                Some((gpus.iter().find(|gpu| gpu.uuid == uuid)?, of_the_device(xid)?))
            });
            if !tell(fault) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_faults_are_none_of_the_device() {
        assert!([13, 31, 43, 45, 69].into_iter().all(|xid| of_the_device(xid).is_none()));
        assert!(of_the_device(79).is_some_and(|w| w.starts_with("Xid 79: it fell off the bus")));
    }
}
