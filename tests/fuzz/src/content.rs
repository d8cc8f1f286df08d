//! Manifests of shared items, as another machine sends them.

use std::path::{Component, Path};

use fleet_common::spec::DatasetName;
use fleet_content::Manifest;
use fleet_content::manifest::MOST_FILES;

/// A manifest. What can be read is the same when it has been written again; all of its files lie below the folder they
/// are put into, and none in another's way.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert_eq!(Manifest::parse(&manifest.to_json()).expect("our own document"), manifest);
    assert!(!manifest.files.is_empty() && manifest.files.len() <= MOST_FILES);
    let root = Path::new("/root-of-all");
    for entry in &manifest.files {
        let path = entry.path.below(root);
        assert!(below(root, &path), "{}", path.display());
        let within = manifest.files.iter().filter(|other| other.path.below(root).starts_with(&path));
        assert_eq!(within.count(), 1, "{} is listed once, and is no folder", entry.path);
    }
    let once: u64 = manifest.blobs().iter().map(|(_, bytes)| bytes).sum();
    assert!(once <= manifest.bytes());
    match manifest.opened_as(root) {
        Some(DatasetName::Folder(path)) => assert!(below(root, Path::new(&path))),
        Some(DatasetName::Textures(name)) => assert!(below(root, &root.join(name))),
        Some(DatasetName::Cifar100 | DatasetName::Dtd) | None => {}
    }
}

/// Names below `root`, nothing that leads elsewhere.
fn below(root: &Path, path: &Path) -> bool {
    let inner = path.strip_prefix(root).map(|inner| inner.components().collect::<Vec<_>>());
    inner.is_ok_and(|parts| !parts.is_empty() && parts.iter().all(|part| matches!(part, Component::Normal(_))))
}
