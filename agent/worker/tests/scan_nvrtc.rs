//! The scan's CUDA kernels through NVIDIA's own compiler, which needs no GPU: `$FLEET_NVRTC` names the library, or the
//! loader finds one. What it cannot tell is whether they compute the right thing: `scan_cuda.rs` does.

use fleet_worker::scan::cuda::Widths;
use fleet_worker::scan::cuda::nvrtc::Nvrtc;

#[test]
fn nvidias_compiler_takes_the_kernels_for_every_board() {
    let nvrtc = match Nvrtc::open() {
        Ok(nvrtc) => nvrtc,
        Err(why) if std::env::var_os("FLEET_NVRTC").is_none() => {
            println!("skipped: {why}");
            return;
        }
        Err(why) => panic!("{why}"),
    };
    // Of other widths, one board each is enough.
    let boards = [75, 80, 86, 89, 90, 100, 120].map(|capability| (capability, 16));
    for (capability, states) in boards.into_iter().chain([(75, 1), (86, 3), (89, 8), (90, 2)]) {
        let target = match nvrtc.target(capability) {
            Ok(target) => target,
            Err(why) => {
                println!("not compiled: {why}");
                continue;
            }
        };
        let compiled = nvrtc.compile(&target, Widths::of(states)).unwrap_or_else(|why| panic!("{target}: {why}"));
        println!("{target}, {states} states: {} bytes", compiled.image.len());
        if target.starts_with("sm_") {
            assert!(compiled.image.starts_with(b"\x7fELF"), "{target} is no cubin");
            println!("{}", summary(&compiled.log));
            let spills: Vec<_> = compiled.log.lines().filter(|line| line.contains("spill")).collect();
            assert_eq!(spills.len(), 6, "of each kernel: {}", compiled.log);
            // The width that models use; of narrow ones a register more or less does not matter.
            let clean = |line: &&str| line.contains(" 0 bytes spill stores, 0 bytes spill loads");
            assert!(states < 16 || spills.iter().all(clean), "registers do not suffice: {}", compiled.log);
        }
    }
    let compiled = nvrtc.compile("compute_75", Widths::of(16)).unwrap_or_else(|why| panic!("PTX: {why}"));
    let text = String::from_utf8_lossy(&compiled.image);
    assert!(text.ends_with('\0') && text.contains(".target sm_75"), "no PTX for compute capability 7.5");
    assert_eq!(text.matches(".visible .entry").count(), 6);
}

/// Each kernel's registers.
fn summary(log: &str) -> String {
    let after = |line: &str, word: &str| line.split(word).nth(1).map(str::to_owned);
    let name =
        |line: &str| after(line, "entry function '").map(|rest| rest.split('\'').next().unwrap_or("").to_owned());
    let names = log.lines().filter_map(name);
    let registers =
        log.lines().filter_map(|line| after(line, "Used ")).filter_map(|r| r.split(' ').next().map(str::to_owned));
    names.zip(registers).map(|(name, r)| format!("  {name}: {r} registers")).collect::<Vec<_>>().join("\n")
}

#[test]
fn nvidias_compiler_says_what_is_wrong() {
    let Ok(nvrtc) = Nvrtc::open() else {
        println!("skipped: no NVRTC");
        return;
    };
    let error = nvrtc.compile("sm_90", Widths { forward: 16, backward: 32 }).err().unwrap_or_default();
    assert!(error.contains("kernel.cu(") && error.contains("a lane for each value"), "{error}");
    let error = nvrtc.compile("sm_1", Widths::of(1)).err().unwrap_or_default();
    assert!(error.contains("gpu-architecture"), "{error}");
}
