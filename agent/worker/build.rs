//! Builds the C++ half of the libtorch extension and tells the linker where libtorch really is.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src/torch/shim.cpp");
    println!("cargo:rerun-if-changed=src/torch/pool.h");

    // torch-sys exports the lib folder it was built against; ours is the link directory of deploy/setup.sh.
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its libtorch"));
    let root = lib.parent().expect("lib/ has a parent").to_path_buf();
    println!("cargo:rerun-if-changed={}", root.join("rpath").display());

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag("-Wall")
        .flag("-Wextra")
        // libtorch's own headers, not ours, would fill the screen.
        .flag("-isystem")
        .flag(root.join("include").to_str().expect("a UTF-8 path"))
        .flag("-isystem")
        .flag(root.join("include/torch/csrc/api/include").to_str().expect("a UTF-8 path"))
        .file("src/torch/shim.cpp")
        .compile("fleet_torch_shim");

    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");

    // Binaries and tests each need the rpath: link arguments of a dependency do not reach them. Without the
    // file (a libtorch that deploy/setup.sh did not prepare) the folder itself has to do.
    let rpath = fs::read_to_string(root.join("rpath")).unwrap_or_else(|_| lib.display().to_string());
    for dir in rpath.trim().split(':') {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{dir}");
    }
}
