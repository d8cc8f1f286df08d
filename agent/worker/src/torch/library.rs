//! C libraries that may not be there: opened by name at run time, their functions found and typed once.

use std::ffi::{CStr, CString, c_char, c_void};

/// Declares a table of a library's functions, each of which answers with a status that is 0 for success.
macro_rules! library {
    ($(#[$about:meta])* $name:ident { $($field:ident = $symbol:literal ($($argument:ty),*);)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,)*
        }
        impl $name {
            /// Opens the first library of these names that can be, and finds its functions.
            ///
            /// # Errors
            /// No library can be opened, or one has not all functions; in words.
            pub(crate) fn open(names: &[String]) -> Result<Self, String> {
                let handle = $crate::torch::library::open(names)?;
                // SAFETY: the types are those of the functions in the library's header.
                Ok(unsafe { Self { $($field: std::mem::transmute::<
                    *mut std::ffi::c_void,
                    unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,
                >($crate::torch::library::symbol(handle, $symbol)?),)* } })
            }
        }
    };
}
pub(crate) use library;

/// Opens the first library that can be; it stays open.
pub(crate) fn open(names: &[String]) -> Result<*mut c_void, String> {
    let mut failures = Vec::new();
    for name in names {
        let Ok(c_name) = CString::new(name.as_str()) else { continue };
        // SAFETY: opening a library runs its initialisers; these are NVIDIA's and libtorch's.
        let handle = unsafe { libc::dlopen(c_name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            return Ok(handle);
        }
        // SAFETY: after a failed dlopen, dlerror returns null or a string valid until this thread's next dl* call.
        failures.push(unsafe { text(libc::dlerror()) });
    }
    Err(failures.join("; "))
}

/// A function's address, in the library or in one that it brought.
pub(crate) fn symbol(handle: *mut c_void, name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: `handle` is an open library.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() { Err(format!("it has no {}", name.to_string_lossy())) } else { Ok(address) }
}

/// The folder of the library that a function is from.
pub(crate) fn folder(function: *const c_void) -> Option<String> {
    // SAFETY: all of it may be zero; dladdr fills it in, and its name is the loader's, for as long as the library is open.
    let path = unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(function, &raw mut found) == 0 {
            return None;
        }
        text(found.dli_fname)
    };
    path.rsplit_once('/').map(|(folder, _)| folder.to_owned())
}

/// A C string's text.
///
/// # Safety
/// `text` must be null or NUL-terminated.
pub(crate) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return "unknown reason".to_owned();
    }
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
