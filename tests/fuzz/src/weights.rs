//! Safetensors files, and adapters.

use fleet_checkpoint::SafeFile;
use fleet_checkpoint::adapter::Adapter;

use crate::folder::Folder;

/// A safetensors file. Its tensors have the bytes that their shapes say, none of which is another's, and whoever looks
/// at the header alone counts as many numbers.
pub fn weights(bytes: &[u8]) {
    let folder = Folder::new();
    folder.write("x.safetensors", bytes);
    let told = fleet_download::weights::read(&folder.path().join("x.safetensors"));
    let Ok(file) = SafeFile::read(bytes) else { return };
    let mut numbers = 0;
    for view in file.tensors.values() {
        let counted: i64 = view.shape.iter().product();
        assert_eq!(view.bytes.len() as u64, counted as u64 * view.dtype.size());
        numbers += counted as u64;
    }
    let told = told.expect("what can be read whole can be looked at");
    assert_eq!((told.tensors, told.numbers), (file.tensors.len(), numbers));
}

/// An adapter's configuration, a zero byte, and the names of its tensors, one per line.
pub fn adapter(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |b| *b == 0);
    let (config, names) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let names = String::from_utf8_lossy(names);
    let Ok(adapter) = Adapter::read(config, names.lines()) else { return };
    assert!(adapter.scale.is_finite());
    let used = adapter.layers.values().map(|u| 2 + usize::from(u.e.is_some())).sum::<usize>();
    assert_eq!(used + adapter.replaced.len(), names.lines().count(), "no tensor is passed over");
}
