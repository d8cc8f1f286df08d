//! Every file that fuzzers once thought worth keeping, in every build: no fuzzer and no nightly compiler is needed.

use std::path::Path;

#[test]
fn what_was_kept_still_holds() {
    for (name, target) in fleet_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut files: Vec<_> = entries.map(|entry| entry.expect("lists").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        for file in files {
            let bytes = std::fs::read(&file).expect("reads");
            // Its name, in case of a panic.
            println!("{}", file.display());
            target(&bytes);
        }
    }
}
