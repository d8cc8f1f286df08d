//! The scan's GPU kernels as far as they can be followed without a GPU: their arithmetic, compiled as ordinary C++ with the words
//! of CUDA emulated, started in the same order with the same arguments; and their compilation by the real NVRTC, which needs none.
//!
//! What no test here covers: that sums over 32 threads by shuffles are sums, and the driver.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;

use fleet_worker::scan::cuda::{self, Job, Launch, agrees, backward_chunk, nvrtc};
use fleet_worker::scan::{Pass, plain};
use support::one_at_a_time;
use tch::{Device, Kind, Tensor};

type Run = unsafe extern "C" fn(*const c_char, u32, u32, u32, u32, *const c_void) -> c_int;

struct Emulation {
    run: Run,
    _library: tempfile::TempDir,
}

impl Emulation {
    fn new(states: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda");
        let kernels = dir.path().join("kernel.cu");
        std::fs::write(&kernels, cuda::SOURCE).unwrap();
        let library = dir.path().join("kernels.so");
        let mut compiler = Command::new("c++");
        compiler.args(["-x", "c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas"]);
        compiler.args([format!("-DN={states}"), format!("-DCHUNK={}", backward_chunk(states))]);
        compiler.arg(format!("-DKERNELS=\"{}\"", kernels.display()));
        compiler.arg(tests.join("emulation.h")).arg("-o").arg(&library);
        assert!(compiler.status().unwrap().success(), "the kernels are not C++");
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: a library that was compiled just now, whose functions have these types.
        let (run, size) = unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null());
            let run: Run = std::mem::transmute(libc::dlsym(handle, c"run".as_ptr()));
            let size: unsafe extern "C" fn() -> usize = std::mem::transmute(libc::dlsym(handle, c"job_size".as_ptr()));
            (run, size())
        };
        assert_eq!(size, size_of::<Job>(), "both sides mean the same arguments");
        Self { run, _library: dir }
    }
}

impl Launch for Emulation {
    fn launch(&self, kernel: &str, [x, y, z]: [u32; 3], threads: u32, job: &Job) -> anyhow::Result<()> {
        let name = CString::new(kernel).unwrap();
        // SAFETY: as the emulation expects; the tensors behind `job` are on the CPU and live.
        let answer = unsafe { (self.run)(name.as_ptr(), x, y, z, threads, std::ptr::from_ref(job).cast()) };
        anyhow::ensure!(answer == 0, "there is no kernel {kernel}");
        Ok(())
    }

    fn lanes(&self) -> i64 {
        1
    }
}

#[test]
fn the_kernels_compute_what_libtorchs_operators_compute() {
    let _alone = one_at_a_time();
    for states in [1, 3, 8, 16, 33, 64] {
        agrees(&Emulation::new(states), Device::Cpu, states).unwrap();
    }
}

/// Several chunks in forward, parts of wider tensors, channels that fill no block, one direction without a gate.
#[test]
fn chunks_of_time_and_strided_rows_change_nothing() {
    let _alone = one_at_a_time();
    let states = 16;
    let gpu = Emulation::new(states);
    for (batch, length, channels, reverse) in
        [(1, 1, 1, false), (1, 65, 130, true), (3, 128, 128, false), (1, 193, 7, true)]
    {
        tch::manual_seed(length);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let wide = random(&[batch, length, 2 * channels + 2 * states]);
        let parts = wide.split_with_sizes([channels, channels, states, states], -1);
        let a = -random(&[channels, states]).exp();
        let (d, bias) = (random(&[channels]), random(&[channels]));
        let pass =
            Pass { x: &parts[0], delta: &parts[1], a: &a, b: &parts[2], c: &parts[3], d: &d, bias: &bias, reverse };
        let y = cuda::forward(&gpu, &[pass], None, 1.0).unwrap();
        let expected = plain::selective_scan(&[pass], None, 1.0);
        let off = (&y - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]);
        assert!(off < 1e-5, "{batch} × {length} × {channels}: {off:e}");
    }
}

/// With `FLEET_NVRTC=/path/to/libnvrtc.so.13`, or where libtorch's CUDA half has brought one.
#[test]
fn nvrtc_compiles_the_kernels_for_every_gpu_that_libtorch_knows() {
    for (capability, states) in
        [((7, 5), 16), ((8, 0), 16), ((8, 6), 8), ((8, 9), 16), ((9, 0), 64), ((10, 0), 16), ((12, 0), 1)]
    {
        match nvrtc::compile(states, capability) {
            Ok((binary, said)) => {
                assert_eq!(&binary[..4], b"\x7fELF", "a GPU's binary is an ELF file");
                let used: Vec<&str> = said.lines().filter_map(|l| l.split("Used ").nth(1)?.split(',').next()).collect();
                assert_eq!(used.len(), 6, "{said}");
                assert!(!said.contains("spill stores") || said.matches("0 bytes spill stores").count() == 6, "{said}");
                println!("{states} states, {capability:?}: {}", used.join(", "));
            }
            Err(error) if error.to_string().contains("can be opened") => {
                eprintln!("not run: {error:#}");
                return;
            }
            Err(error) => panic!("{capability:?}: {error:#}"),
        }
    }
}
