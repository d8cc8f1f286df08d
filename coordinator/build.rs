//! Generates the services' stubs; their messages are `fleet-common`'s.

fn main() {
    println!("cargo:rerun-if-changed=../proto");
    let services = ["agent", "operator", "join", "artifacts", "content"].map(|f| format!("fleet/v1/{f}.proto"));
    let descriptors = protox::compile(services, ["../proto"]).unwrap_or_else(|e| panic!("{e:?}"));
    tonic_prost_build::configure()
        .extern_path(".fleet.v1", "::fleet_common::wire::v1")
        .compile_fds(descriptors)
        .expect("stubs are generated");
}
