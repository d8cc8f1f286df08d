//! Compiling the kernels for the GPU that is there, with NVIDIA's run-time compiler (NVRTC), which libtorch's CUDA half brings,
//! and starting them through the driver. Neither is linked: both are opened when a scan first meets a GPU.
//!
//! Kernels go to the default stream. It is the one that libtorch works on in this process, which never chooses another, so that
//! they run in turn with libtorch's own, and memory that libtorch has freed is not used again before they are done.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use anyhow::{Context as _, anyhow, bail};

use super::{Job, Launch, SOURCE, backward_chunk};

/// Names of NVRTC's library, newest first.
const LIBRARIES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
/// Names a library instead.
const VARIABLE: &str = "FLEET_NVRTC";

/// The kernels' names.
const KERNELS: [&CStr; 6] = [c"ends", c"join", c"forward", c"carries", c"join_back", c"backward"];

/// A library that was opened, and stays so.
struct Library {
    handle: *mut c_void,
    name: String,
}

impl Library {
    fn open(name: &str) -> Option<Self> {
        let c_name = CString::new(name).ok()?;
        // SAFETY: opening a library runs its initialisers; these are NVIDIA's, or what the user has named.
        let handle = unsafe { libc::dlopen(c_name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        (!handle.is_null()).then(|| Self { handle, name: name.to_owned() })
    }

    /// The function called `name`.
    ///
    /// # Safety
    /// `F` must be its type.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> anyhow::Result<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: `handle` is an open library.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        if address.is_null() {
            bail!("{} has no {}", self.name, name.to_string_lossy());
        }
        // SAFETY: a function's address, of the type that the caller promises.
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

type Program = *mut c_void;

/// Compiles the kernels for `states` states and a GPU of this compute capability, such as (8, 9). Returns the binary, and what
/// the compiler said.
///
/// # Errors
/// No NVRTC is here, or it refuses, in its words.
pub fn compile(states: i64, capability: (i32, i32)) -> anyhow::Result<(Vec<u8>, String)> {
    let named = std::env::var(VARIABLE).ok();
    let library = match &named {
        Some(name) => {
            Library::open(name).with_context(|| format!("{VARIABLE} names {name}, which cannot be opened"))?
        }
        None => LIBRARIES.iter().find_map(|name| Library::open(name)).ok_or_else(|| {
            anyhow!(
                "none of {} can be opened; libtorch's CUDA half brings one, {VARIABLE} can name another",
                LIBRARIES.join(", ")
            )
        })?,
    };
    type Create = unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int;
    type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
    type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
    type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
    type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
    // SAFETY: these are the functions' types in nvrtc.h, unchanged since CUDA 11.1.
    let (create, compile, log_size, log, cubin_size, cubin, destroy) = unsafe {
        (
            library.function::<Create>(c"nvrtcCreateProgram")?,
            library.function::<Compile>(c"nvrtcCompileProgram")?,
            library.function::<Size>(c"nvrtcGetProgramLogSize")?,
            library.function::<Get>(c"nvrtcGetProgramLog")?,
            library.function::<Size>(c"nvrtcGetCUBINSize")?,
            library.function::<Get>(c"nvrtcGetCUBIN")?,
            library.function::<Destroy>(c"nvrtcDestroyProgram")?,
        )
    };
    let source = CString::new(SOURCE).context("the kernels' source")?;
    let options = [
        format!("--gpu-architecture=sm_{}{}", capability.0, capability.1),
        format!("-DN={states}"),
        format!("-DCHUNK={}", backward_chunk(states)),
        "--ptxas-options=-v".to_owned(),
    ];
    let options: Vec<CString> = options.into_iter().map(CString::new).collect::<Result<_, _>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    let mut program: Program = ptr::null_mut();
    // SAFETY: called as nvrtc.h says, with strings that outlive the calls and places to write to.
    let made = unsafe { create(&raw mut program, source.as_ptr(), c"scan.cu".as_ptr(), 0, ptr::null(), ptr::null()) };
    if made != 0 {
        bail!("{} makes no program (error {made})", library.name);
    }
    /// What the compiler gives of a program.
    fn take(program: Program, size: Size, get: Get) -> Vec<u8> {
        let mut bytes = 0;
        // SAFETY: a live program, and a place for its answer.
        if unsafe { size(program, &raw mut bytes) } != 0 {
            return Vec::new();
        }
        let mut text = vec![0u8; bytes];
        // SAFETY: room for as many bytes as it said.
        let got = unsafe { get(program, text.as_mut_ptr().cast()) };
        if got == 0 { text } else { Vec::new() }
    }
    // SAFETY: as above.
    let compiled = unsafe { compile(program, pointers.len() as c_int, pointers.as_ptr()) };
    let said = String::from_utf8_lossy(&take(program, log_size, log)).trim_end_matches('\0').trim().to_owned();
    let binary = take(program, cubin_size, cubin);
    // SAFETY: nothing uses the program after this.
    unsafe { destroy(&raw mut program) };
    if compiled != 0 || binary.is_empty() {
        bail!(
            "{} does not compile the scan for compute capability {capability:?} (error {compiled}): {said}",
            library.name
        );
    }
    Ok((binary, said))
}

type Handle = *mut c_void;
type LaunchKernel = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    Handle,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;
type SetCurrent = unsafe extern "C" fn(Handle) -> c_int;

/// The kernels on a GPU. They stay for the life of the process.
pub struct Module {
    context: Handle,
    kernels: [Handle; KERNELS.len()],
    set_current: SetCurrent,
    launch: LaunchKernel,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Compiles and loads the kernels for `states` states on the `ordinal`th visible GPU.
    ///
    /// # Errors
    /// In words: what is missing, or refused.
    pub fn load(ordinal: usize, states: i64) -> anyhow::Result<Self> {
        let driver = Library::open("libcuda.so.1").context("NVIDIA's driver cannot be opened")?;
        type Init = unsafe extern "C" fn(c_uint) -> c_int;
        type DeviceGet = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
        type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
        type Retain = unsafe extern "C" fn(*mut Handle, c_int) -> c_int;
        type LoadData = unsafe extern "C" fn(*mut Handle, *const c_void) -> c_int;
        type GetFunction = unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> c_int;
        // SAFETY: these are the functions' types in cuda.h, unchanged since CUDA 7.
        let (init, device_get, attribute, retain, set_current, load_data, get_function, launch) = unsafe {
            (
                driver.function::<Init>(c"cuInit")?,
                driver.function::<DeviceGet>(c"cuDeviceGet")?,
                driver.function::<Attribute>(c"cuDeviceGetAttribute")?,
                driver.function::<Retain>(c"cuDevicePrimaryCtxRetain")?,
                driver.function::<SetCurrent>(c"cuCtxSetCurrent")?,
                driver.function::<LoadData>(c"cuModuleLoadData")?,
                driver.function::<GetFunction>(c"cuModuleGetFunction")?,
                driver.function::<LaunchKernel>(c"cuLaunchKernel")?,
            )
        };
        let did =
            |code: c_int, what: &str| if code == 0 { Ok(()) } else { Err(anyhow!("{what}: driver error {code}")) };
        const MAJOR: c_int = 75;
        const MINOR: c_int = 76;
        let (mut device, mut major, mut minor) = (0, 0, 0);
        let (mut context, mut module) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: called as cuda.h says, with places to write to.
        unsafe {
            did(init(0), "cuInit")?;
            did(device_get(&raw mut device, ordinal as c_int), "cuDeviceGet")?;
            did(attribute(&raw mut major, MAJOR, device), "cuDeviceGetAttribute")?;
            did(attribute(&raw mut minor, MINOR, device), "cuDeviceGetAttribute")?;
        }
        let (binary, _) = compile(states, (major, minor))?;
        let mut kernels = [ptr::null_mut(); KERNELS.len()];
        // SAFETY: as above; the binary outlives the call that copies it. libtorch works in the primary context, too.
        unsafe {
            did(retain(&raw mut context, device), "cuDevicePrimaryCtxRetain")?;
            did(set_current(context), "cuCtxSetCurrent")?;
            did(load_data(&raw mut module, binary.as_ptr().cast()), "cuModuleLoadData")?;
            for (kernel, name) in kernels.iter_mut().zip(KERNELS) {
                did(get_function(kernel, module, name.as_ptr()), "cuModuleGetFunction")?;
            }
        }
        Ok(Self { context, kernels, set_current, launch })
    }
}

impl Launch for Module {
    fn launch(&self, kernel: &str, [x, y, z]: [u32; 3], threads: u32, job: &Job) -> anyhow::Result<()> {
        let place = KERNELS.iter().position(|name| name.to_bytes() == kernel.as_bytes());
        let kernel_handle = self.kernels[place.with_context(|| format!("there is no kernel {kernel}"))?];
        let mut arguments = [ptr::from_ref(job).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one `Job` by value, whose pointers are to tensors that the caller keeps until it has asked for
        // whatever uses them.
        let code = unsafe {
            (self.set_current)(self.context);
            let stream = ptr::null_mut();
            (self.launch)(kernel_handle, x, y, z, threads, 1, 1, 0, stream, arguments.as_mut_ptr(), ptr::null_mut())
        };
        if code == 0 { Ok(()) } else { Err(anyhow!("the kernel {kernel} cannot be started: driver error {code}")) }
    }

    fn lanes(&self) -> i64 {
        32
    }
}
