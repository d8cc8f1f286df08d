//! Generates the messages of `proto/`; the services' stubs are generated where they are used, so that this crate
//! stays free of tonic.

fn main() {
    println!("cargo:rerun-if-changed=../proto");
    let names = ["types", "agent", "operator", "journal", "samples", "snapshot", "join", "artifacts", "content"];
    let files = names.map(|f| format!("fleet/v1/{f}.proto"));
    let descriptors = protox::compile(files, ["../proto"]).unwrap_or_else(|e| panic!("{e:?}"));
    prost_build::Config::new().compile_fds(descriptors).expect("messages are generated");
}
