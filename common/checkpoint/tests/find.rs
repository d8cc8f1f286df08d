//! The file of a backbone, by name.

use std::fs;

use fleet_checkpoint::{EXTENSIONS, Format, find};

#[test]
fn one_file_is_found_and_two_are_one_too_many() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(find(dir.path(), "vit").expect("none"), None);
    // Others' names, and what is half written.
    for other in ["vit.partial", "vit_large.pth", "vit.pth.partial", "vit"] {
        fs::write(dir.path().join(other), "").expect("writes");
    }
    assert_eq!(find(dir.path(), "vit").expect("none"), None);
    for (n, extension) in EXTENSIONS.iter().enumerate() {
        let file = dir.path().join(format!("vit.{extension}"));
        fs::write(&file, "").expect("writes");
        assert_eq!(find(dir.path(), "vit").expect("one"), Some(file.clone()));
        for second in &EXTENSIONS[n + 1..] {
            let other = dir.path().join(format!("vit.{second}"));
            fs::write(&other, "").expect("writes");
            let message = find(dir.path(), "vit").expect_err("two").to_string();
            let both = [&file, &other].map(|f| f.display().to_string());
            assert!(both.iter().all(|name| message.contains(name)), "{message}");
            fs::remove_file(other).expect("removes");
        }
        fs::remove_file(file).expect("removes");
    }
}

#[test]
fn the_content_decides_whatever_the_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("vit.pth");
    // A header of 0x280 bytes begins like a pickle of protocol 2.
    for (bytes, format) in [
        (&b"\x80\x02\0\0\0\0\0\0{\"a\""[..], Some(Format::Safetensors)),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", Some(Format::Legacy)),
        (b"PK\x03\x04", Some(Format::Zip)),
        (b"version https://", None),
        (b"", None),
    ] {
        fs::write(&file, bytes).expect("writes");
        assert_eq!(Format::of(&file).expect("reads"), format);
    }
    assert!(Format::of(&dir.path().join("none")).expect_err("not there").to_string().contains("cannot read"));
}
