//! Generates the client's stubs, whose messages are `fleet-common`'s, and names the commit that this is built from.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=../proto");
    let services = ["agent", "artifacts", "content"].map(|f| format!("fleet/v1/{f}.proto"));
    let descriptors = protox::compile(services, ["../proto"]).unwrap_or_else(|e| panic!("{e:?}"));
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".fleet.v1", "::fleet_common::wire::v1")
        .compile_fds(descriptors)
        .expect("stubs are generated");

    // The log of HEAD grows with every commit; a copy of the sources without git has a version only.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map_or_else(String::new, |commit| format!(" ({commit})"));
    println!("cargo:rustc-env=FLEET_VERSION={}{commit}", env!("CARGO_PKG_VERSION"));
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
