//! Generates the client that asks for certificates; its messages are `fleet-common`'s.

fn main() {
    println!("cargo:rerun-if-changed=../../proto");
    let descriptors = protox::compile(["fleet/v1/join.proto"], ["../../proto"]).unwrap_or_else(|e| panic!("{e:?}"));
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".fleet.v1", "::fleet_common::wire::v1")
        .compile_fds(descriptors)
        .expect("stubs are generated");
}
