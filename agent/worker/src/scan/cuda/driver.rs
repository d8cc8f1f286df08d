//! NVIDIA's driver: loading what NVRTC made into a device's primary context, which is libtorch's too, and launching it.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};

use super::Scan;
use crate::torch::library::{library, text};

library! {
    /// The functions of cuda.h that we call.
    Functions {
        init = c"cuInit" (c_uint);
        device = c"cuDeviceGet" (*mut c_int, c_int);
        attribute = c"cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
        retain = c"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
        push = c"cuCtxPushCurrent_v2" (*mut c_void);
        pop = c"cuCtxPopCurrent_v2" (*mut *mut c_void);
        load = c"cuModuleLoadData" (*mut *mut c_void, *const c_void);
        function = c"cuModuleGetFunction" (*mut *mut c_void, *mut c_void, *const c_char);
        launch = c"cuLaunchKernel" (
            *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
            *mut *mut c_void);
        name = c"cuGetErrorName" (c_int, *mut *const c_char);
        describe = c"cuGetErrorString" (c_int, *mut *const c_char);
    }
}

impl Functions {
    /// A driver's status as a result, in its own words.
    fn ok(&self, call: &str, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let words = |get: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut words = null();
            // SAFETY: the driver writes null or one of its own constants.
            unsafe {
                get(status, &raw mut words);
                text(words)
            }
        };
        Err(format!("{call}: {} ({})", words(self.describe), words(self.name)))
    }
}

/// A device of the driver's, with its primary context.
#[derive(Debug, Clone, Copy)]
pub(super) struct Driver {
    functions: Functions,
    context: *mut c_void,
    /// Such as 86 for 8.6.
    pub capability: c_int,
    /// Multiprocessors.
    pub processors: c_int,
}

// SAFETY: the context is the driver's, which takes calls from any thread.
unsafe impl Send for Driver {}

impl Driver {
    /// Opens the driver and one of its devices, counted as libtorch does.
    ///
    /// # Errors
    /// The driver is not there, or refuses; in words.
    pub(super) fn open(ordinal: usize) -> Result<Self, String> {
        const MULTIPROCESSORS: c_int = 16;
        const MAJOR: c_int = 75;
        const MINOR: c_int = 76;
        let names = ["libcuda.so.1".to_owned()];
        let functions = Functions::open(&names).map_err(|why| format!("NVIDIA's driver cannot be opened ({why})"))?;
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: called as cuda.h says, with places to write to. The context is kept for the process's life.
        unsafe {
            functions.ok("cuInit", (functions.init)(0))?;
            functions.ok("cuDeviceGet", (functions.device)(&raw mut device, ordinal as c_int))?;
            functions.ok("cuDevicePrimaryCtxRetain", (functions.retain)(&raw mut context, device))?;
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: writes one integer.
            let status = unsafe { (functions.attribute)(&raw mut value, which, device) };
            functions.ok("cuDeviceGetAttribute", status).map(|()| value)
        };
        let capability = 10 * attribute(MAJOR)? + attribute(MINOR)?;
        Ok(Self { functions, context, capability, processors: attribute(MULTIPROCESSORS)? })
    }

    /// Runs `f` with the device's context current, and leaves the thread as it was.
    fn inside<T>(&self, f: impl FnOnce(&Functions) -> Result<T, String>) -> Result<T, String> {
        // SAFETY: the context is retained.
        self.functions.ok("cuCtxPushCurrent", unsafe { (self.functions.push)(self.context) })?;
        let outcome = f(&self.functions);
        let mut popped = null_mut();
        // SAFETY: takes away what was pushed above.
        let status = unsafe { (self.functions.pop)(&raw mut popped) };
        outcome.and_then(|value| self.functions.ok("cuCtxPopCurrent", status).map(|()| value))
    }

    /// Loads a compiled image; it stays loaded.
    ///
    /// # Errors
    /// The driver refuses it; in words.
    pub(super) fn load(&self, image: &[u8]) -> Result<Module, String> {
        self.inside(|functions| {
            let mut module = null_mut();
            // SAFETY: a cubin says how long it is, and PTX ends with a NUL.
            let status = unsafe { (functions.load)(&raw mut module, image.as_ptr().cast()) };
            functions.ok("cuModuleLoadData", status).map(|()| Module { driver: *self, module })
        })
    }
}

/// Loaded kernels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Module {
    driver: Driver,
    module: *mut c_void,
}

// SAFETY: as for the driver.
unsafe impl Send for Module {}

impl Module {
    /// A kernel's handle.
    ///
    /// # Errors
    /// The module has none of this name; in words.
    pub(super) fn kernel(&self, name: &CStr) -> Result<Kernel, String> {
        self.driver.inside(|functions| {
            let mut function = null_mut();
            // SAFETY: the module is loaded, and the name ends with a NUL.
            let status = unsafe { (functions.function)(&raw mut function, self.module, name.as_ptr()) };
            functions.ok("cuModuleGetFunction", status).map(|()| Kernel { driver: self.driver, function })
        })
    }
}

/// One kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    driver: Driver,
    function: *mut c_void,
}

// SAFETY: as for the driver.
unsafe impl Send for Kernel {}

impl Kernel {
    /// Queues the kernel on a stream of the device.
    ///
    /// # Errors
    /// The driver refuses, or an earlier launch has failed; in words.
    ///
    /// # Safety
    /// What `scan` points to must be the device's memory, of the sizes that `kernel.cu` names, and must not be given
    /// back to anyone but this stream before the kernel has run; the grid must fit `scan`.
    pub(super) unsafe fn launch(
        &self,
        grid: [u32; 3],
        threads: u32,
        stream: *mut c_void,
        scan: &Scan,
    ) -> Result<(), String> {
        let [x, y, z] = grid;
        let mut arguments = [std::ptr::from_ref(scan).cast_mut().cast::<c_void>()];
        self.driver.inside(|functions| {
            // SAFETY: the driver copies the argument during the call; the rest is the caller's promise.
            let status = unsafe {
                (functions.launch)(self.function, x, y, z, threads, 1, 1, 0, stream, arguments.as_mut_ptr(), null_mut())
            };
            functions.ok("cuLaunchKernel", status)
        })
    }
}
