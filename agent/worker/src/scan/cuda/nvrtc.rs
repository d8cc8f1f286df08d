//! NVIDIA's compiler as a library (NVRTC), which libtorch's CUDA half brings: from `kernel.cu` to a module for one kind
//! of device. It needs no GPU, no driver and no toolkit.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;

use super::{MARK, SEGMENT, Scan, THREADS, Widths};
use crate::torch::library::{self, library};

const SOURCE: &str = include_str!("kernel.cu");

library! {
    /// The functions of nvrtc.h that we call.
    Functions {
        version = c"nvrtcVersion" (*mut c_int, *mut c_int);
        n_architectures = c"nvrtcGetNumSupportedArchs" (*mut c_int);
        architectures = c"nvrtcGetSupportedArchs" (*mut c_int);
        create = c"nvrtcCreateProgram"
            (*mut *mut c_void, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
        destroy = c"nvrtcDestroyProgram" (*mut *mut c_void);
        compile = c"nvrtcCompileProgram" (*mut c_void, c_int, *const *const c_char);
        log_size = c"nvrtcGetProgramLogSize" (*mut c_void, *mut usize);
        log = c"nvrtcGetProgramLog" (*mut c_void, *mut c_char);
        cubin_size = c"nvrtcGetCUBINSize" (*mut c_void, *mut usize);
        cubin = c"nvrtcGetCUBIN" (*mut c_void, *mut c_char);
        ptx_size = c"nvrtcGetPTXSize" (*mut c_void, *mut usize);
        ptx = c"nvrtcGetPTX" (*mut c_void, *mut c_char);
    }
}

/// What NVRTC made.
#[derive(Debug)]
pub struct Compiled {
    /// A cubin, or PTX that ends with a NUL: what `cuModuleLoadData` takes.
    pub image: Vec<u8>,
    /// What the compiler says; of a cubin, each kernel's registers and spills.
    pub log: String,
}

/// The opened compiler.
#[derive(Debug)]
pub struct Nvrtc {
    functions: Functions,
    version: (c_int, c_int),
}

impl Nvrtc {
    /// Opens the library that `$FLEET_NVRTC` names, else libtorch's, else one that the loader knows.
    ///
    /// # Errors
    /// There is none; in words.
    pub fn open() -> Result<Self, String> {
        let mut names: Vec<_> = std::env::var("FLEET_NVRTC").into_iter().filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            // The first is libtorch's own link to NVRTC, whatever that is called in its package.
            names = ["libcaffe2_nvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"].map(str::to_owned).to_vec();
        }
        let functions = Functions::open(&names).map_err(|why| format!("NVRTC cannot be opened ({why})"))?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two integers.
        ok("nvrtcVersion", unsafe { (functions.version)(&raw mut major, &raw mut minor) })?;
        // NVRTC opens its other half by name only, which the loader does not look for beside it; but it is content with
        // one that is open. If this one is not there, NVRTC says so when it compiles.
        if let Some(folder) = library::folder(functions.version as *const c_void) {
            let _ = library::open(&[format!("{folder}/libnvrtc-builtins.so.{major}.{minor}")]);
        }
        Ok(Self { functions, version: (major, minor) })
    }

    /// The target for a device of this compute capability (such as 86 for 8.6): its own, else the newest before it, as
    /// PTX that the driver translates.
    ///
    /// # Errors
    /// NVRTC knows only newer ones; in words.
    pub fn target(&self, capability: c_int) -> Result<String, String> {
        let mut n = 0;
        // SAFETY: writes one integer, and then as many as that says.
        let known = unsafe {
            ok("nvrtcGetNumSupportedArchs", (self.functions.n_architectures)(&raw mut n))?;
            let mut known = vec![0; usize::try_from(n).unwrap_or(0)];
            ok("nvrtcGetSupportedArchs", (self.functions.architectures)(known.as_mut_ptr()))?;
            known
        };
        if known.contains(&capability) {
            return Ok(format!("sm_{capability}"));
        }
        let (major, minor) = self.version;
        match known.into_iter().filter(|c| *c < capability).max() {
            Some(older) => Ok(format!("compute_{older}")),
            None => Err(format!("NVRTC {major}.{minor} has no code for compute capability {capability}")),
        }
    }

    /// Compiles the kernels for a target of [`Self::target`].
    ///
    /// # Errors
    /// NVRTC's log.
    pub fn compile(&self, target: &str, widths: Widths) -> Result<Compiled, String> {
        let binary = target.starts_with("sm_");
        let mut options = vec![
            format!("--gpu-architecture={target}"),
            "--std=c++17".to_owned(),
            // The hardware's own 2^x and 1/x: 2 units in the last place, and denormals are zero.
            "--ftz=true".to_owned(),
            "--prec-div=false".to_owned(),
            format!("-DFORWARD={}", widths.forward),
            format!("-DBACKWARD={}", widths.backward),
            format!("-DSEGMENT={SEGMENT}"),
            format!("-DMARK={MARK}"),
            format!("-DTHREADS={THREADS}"),
            format!("-DSCAN_BYTES={}", size_of::<Scan>()),
        ];
        if binary {
            options.push("--ptxas-options=-v".to_owned());
        }
        let program = Program::new(&self.functions, SOURCE)?;
        let compiled = program.compile(&options);
        let log = program.log();
        compiled.map_err(|why| format!("{why}: {}", log.trim()))?;
        Ok(Compiled { image: program.image(binary)?, log })
    }
}

/// A program of NVRTC's, destroyed when it is dropped.
struct Program<'a> {
    functions: &'a Functions,
    handle: *mut c_void,
}

impl<'a> Program<'a> {
    fn new(functions: &'a Functions, source: &str) -> Result<Self, String> {
        let source = CString::new(source).map_err(|_| "the source has a NUL inside".to_owned())?;
        let (mut handle, name, none) = (null_mut(), c"kernel.cu", std::ptr::null());
        // SAFETY: NVRTC copies both strings; there are no headers.
        let status = unsafe { (functions.create)(&raw mut handle, source.as_ptr(), name.as_ptr(), 0, none, none) };
        ok("nvrtcCreateProgram", status)?;
        Ok(Self { functions, handle })
    }

    fn compile(&self, options: &[String]) -> Result<(), String> {
        let options: Vec<_> = options.iter().filter_map(|o| CString::new(o.as_str()).ok()).collect();
        let options: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: the strings live through the call.
        let status = unsafe { (self.functions.compile)(self.handle, options.len() as c_int, options.as_ptr()) };
        ok("nvrtcCompileProgram", status)
    }

    fn log(&self) -> String {
        let log = self.bytes("nvrtcGetProgramLog", self.functions.log_size, self.functions.log).unwrap_or_default();
        CStr::from_bytes_until_nul(&log).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn image(&self, binary: bool) -> Result<Vec<u8>, String> {
        match binary {
            true => self.bytes("nvrtcGetCUBIN", self.functions.cubin_size, self.functions.cubin),
            false => self.bytes("nvrtcGetPTX", self.functions.ptx_size, self.functions.ptx),
        }
    }

    fn bytes(
        &self,
        what: &str,
        size: unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int,
        get: unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, String> {
        let mut n = 0;
        // SAFETY: the second call writes as many bytes as the first one says.
        unsafe {
            ok(what, size(self.handle, &raw mut n))?;
            let mut bytes = vec![0u8; n];
            ok(what, get(self.handle, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is NVRTC's, and this is its last use.
        unsafe { (self.functions.destroy)(&raw mut self.handle) };
    }
}

/// An NVRTC status as a result.
fn ok(call: &str, status: c_int) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{call} answers with error {status}")) }
}
