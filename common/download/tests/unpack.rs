//! Archives that hold a data set, and archives that want something else.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use fleet_download::unpack::{Limits, unpack};

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 20 };

/// An entry, written field by field: the crate's own writer refuses the names that matter here.
fn entry(name: &str, kind: tar::EntryType, link: &str, body: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(body.len() as u64);
    header.set_mode(0o6777);
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, body: &[u8]) -> Vec<u8> {
    entry(name, tar::EntryType::Regular, "", body)
}

fn archive(dir: &Path, entries: &[Vec<u8>]) -> PathBuf {
    let path = dir.join("a.tar.gz");
    let mut gz = GzEncoder::new(fs::File::create(&path).expect("creates"), Compression::fast());
    for entry in entries {
        gz.write_all(entry).expect("writes");
    }
    gz.write_all(&[0; 1024]).expect("writes");
    gz.finish().expect("writes");
    path
}

#[track_caller]
fn refused(entries: &[Vec<u8>], parts: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let path = archive(dir.path(), entries);
    let target = dir.path().join("target");
    let message = unpack(&path, "dtd", &target, LIMITS, &mut |_| {}).expect_err("must fail").to_string();
    for part in parts {
        assert!(message.contains(part), "expected \"{part}\" in: {message}");
    }
    dir
}

#[test]
fn files_and_folders_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = archive(
        dir.path(),
        &[
            entry("pax", tar::EntryType::XGlobalHeader, "", b"11 mtime=1\n"),
            entry("./dtd/", tar::EntryType::Directory, "", b""),
            file("./dtd/images/banded/1.jpg", b"one"),
            file("dtd/labels/train1.txt", b"banded/1.jpg"),
            file("._dtd", b"left out"),
            file("other/file", b"left out"),
        ],
    );
    let target = dir.path().join("target");
    let mut told = 0;
    unpack(&path, "dtd", &target, LIMITS, &mut |bytes| told = bytes).expect("unpacks");
    assert_eq!(told, 15);
    assert_eq!(fs::read(target.join("dtd/images/banded/1.jpg")).expect("there"), b"one");
    assert_eq!(fs::read(target.join("dtd/labels/train1.txt")).expect("there"), b"banded/1.jpg");
    assert_eq!(fs::read_dir(&target).expect("lists").count(), 1);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(target.join("dtd/images/banded/1.jpg")).expect("there").permissions(),
    );
    assert_eq!(mode & 0o7111, 0, "the archive does not decide on permissions: {mode:o}");
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../evil", "dtd/../../evil", "/tmp/evil", "dtd/images/../../../evil"] {
        let dir = refused(&[file(name, b"x")], &[name, "leads out"]);
        assert!(!dir.path().join("evil").exists());
    }
}

#[test]
fn links_and_devices_are_refused() {
    use tar::EntryType as T;
    for kind in [T::Symlink, T::Link, T::Char, T::Block, T::Fifo, T::GNULongName] {
        refused(&[entry("dtd/images", kind, "/etc", b"")], &["dtd/images", "neither a file nor a folder"]);
    }
}

#[test]
fn too_much_is_refused() {
    let zeros = vec![0; 2 << 20];
    refused(&[file("dtd/big", &zeros)], &["more than 1048576 bytes"]);
    // Where it is not even wanted.
    refused(&[file("big", &zeros)], &["more than 1048576 bytes"]);
    let many: Vec<_> = (0..21).map(|n| file(&format!("dtd/{n}"), b"")).collect();
    refused(&many, &["more than 20 entries"]);
    refused(&[file("dtd/1/2/3/4/5/6/7/8", b"")], &["9 folders deep"]);
}

#[test]
fn the_same_name_twice_and_damage_are_refused() {
    refused(&[file("dtd/a", b"1"), file("dtd/a", b"2")], &["dtd/a", "cannot make the file"]);
    let dir = tempfile::tempdir().expect("a folder");
    let path = archive(dir.path(), &[file("dtd/a", &(0..=255).cycle().take(100_000).collect::<Vec<u8>>())]);
    let whole = fs::read(&path).expect("reads");
    for cut in [0, 1, whole.len() / 2, whole.len() - 4] {
        fs::write(&path, &whole[..cut]).expect("writes");
        let target = dir.path().join(format!("target{cut}"));
        let message = unpack(&path, "dtd", &target, LIMITS, &mut |_| {}).expect_err("must fail").to_string();
        assert!(message.contains("not a whole .tar.gz"), "{cut}: {message}");
    }
}
