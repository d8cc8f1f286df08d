//! Checkpoints made to run something, to fill the memory, or never to end.

mod support;

use std::time::{Duration, Instant};

use fleet_checkpoint::{Checkpoint, pickle::tree::Node};
use support::*;

/// A weight, so that a checkpoint is one.
fn weight() -> Vec<u8> {
    tensor(6, 0, &[2, 3], &[3, 1])
}

#[test]
fn nothing_is_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let mark = dir.path().join("was-run");
    let command = text(&format!("touch {}", mark.display()));
    let calls = [
        [b"cposix\nsystem\n".to_vec(), command.clone(), b"\x85R".to_vec()].concat(),
        [text("os"), text("system"), b"\x93".to_vec(), command.clone(), b"\x85R".to_vec()].concat(),
        [b"csubprocess\nPopen\n".to_vec(), command.clone(), b"\x85\x81}b".to_vec()].concat(),
        [b"cbuiltins\neval\n".to_vec(), command.clone(), b"\x85}\x92".to_vec()].concat(),
    ];
    for call in calls {
        let checkpoint = read(&pickle(&dict(&[("w", weight()), ("x", call)]))).expect("reads");
        let dict = checkpoint.state_dict(None).expect("has tensors");
        assert_eq!(dict.tensors.keys().collect::<Vec<_>>(), ["w"]);
        let skipped = &dict.skipped[..];
        assert_eq!(skipped.len(), 1);
        assert!(["posix.system", "os.system", "subprocess.Popen", "builtins.eval"].contains(&&*skipped[0].what));
        let tree = checkpoint.tree();
        let opaque = tree.get(tree.root(), "x").expect("there");
        assert!(matches!(tree.node(opaque), Node::Opaque(_)));
    }
    assert!(!mark.exists());
}

#[test]
fn lengths_are_held_against_what_is_there() {
    for (operation, expected) in [
        (&b"X\xff\xff\xff\xff"[..], "expected 4294967295 bytes"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "expected 18446744073709551615 bytes"),
        (b"B\xff\xff\xff\x7f", "expected 2147483647 bytes"),
        (b"\x8e\0\0\0\0\0\0\0\x80", "expected 9223372036854775808 bytes"),
        (b"\x96\0\0\0\0\0\0\0\x01", "expected 72057594037927936 bytes"),
        // An integer of 2^31 bytes.
        (b"\x8b\0\0\0\x80", "expected 2147483648 bytes"),
        (b"\x8a\xff", "expected 255 bytes"),
        (b"cname without an end", "expected 1 bytes more"),
    ] {
        let message = refused(&pickle(operation));
        assert!(message.contains(expected) && message.contains("test.pth, byte "), "{message}");
    }
    let name = [b"c".to_vec(), vec![b'x'; 300], b"\ny\n".to_vec()].concat();
    assert!(refused(&pickle(&name)).contains("at most 256 bytes"));
}

#[test]
fn a_million_brackets_end_at_a_bound_and_a_million_lists_do_no_harm() {
    let started = Instant::now();
    assert!(refused(&pickle(&vec![b'('; 1_000_000])).contains("nested deeper than 1024"));
    assert!(refused(&pickle(&vec![b']'; 1_000_000])).contains("on the stack"));
    // Each list is put into the one before at once: the stack stays short, and the nesting is what grows.
    let mut nested = b"]".to_vec();
    for _ in 0..1_000_000 {
        nested.extend(b"\x85");
    }
    assert!(refused(&pickle(&nested)).contains("found a tuple of 1"));
    let deep = pickle(&dict(&[("w", weight()), ("deep", nested)]));
    let checkpoint = read(&deep).expect("reads");
    assert_eq!(checkpoint.state_dict(None).expect("has tensors").skipped[0].what, "a tuple of 1");
    drop(checkpoint);
    // Dicts are looked through, but not that deep.
    let mut dicts = weight();
    for _ in 0..10_000 {
        dicts =
            [b"q\x01}".to_vec(), text("a"), b"h\x01s".to_vec()].concat().into_iter().fold(dicts, |mut all, byte| {
                all.push(byte);
                all
            });
    }
    assert!(refused(&pickle(&dicts)).contains("more than 64 deep"));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn what_contains_itself_ends() {
    let list = b"]q\x05h\x05a".to_vec();
    let checkpoint = read(&pickle(&dict(&[("w", weight()), ("l", list)]))).expect("reads");
    assert_eq!(checkpoint.state_dict(None).expect("has tensors").skipped[0].what, "a list of 1");
    let itself = [b"}q\x05".to_vec(), text("a"), b"h\x05s".to_vec(), text("w"), weight(), b"s".to_vec()].concat();
    assert!(refused(&pickle(&itself)).contains("is the same dict as"));
    assert!(refused(&pickle(b"h\x07")).contains("value 7 is used before it is given"));
}

#[test]
fn laughs_are_not_multiplied() {
    // Each dict holds the one before twice: 2^40 ways to the bottom.
    let mut laughs = [dict(&[("w", weight())]), b"q\x00".to_vec()].concat();
    for level in 0..40u8 {
        let both = [text("a"), vec![b'h', level], text("b"), vec![b'h', level]].concat();
        laughs.extend([b"}(".to_vec(), both, vec![b'u', b'q', level + 1]].concat());
    }
    let started = Instant::now();
    assert!(refused(&pickle(&laughs)).contains("is the same dict as"));
    // A text that is copied by each of a thousand calls.
    let copies =
        [text(&"x".repeat(100_000)), b"q\x00c_codecs\nencode\nq\x01".to_vec(), b"h\x01h\x00\x85R".repeat(1000)];
    assert!(refused(&pickle(&copies.concat())).contains("multiplies its own content"));
    // A short name that stands within a long one twenty thousand times.
    let long = text(&"n".repeat(1000));
    let inner = [b"}(".to_vec(), b"h\x02h\x02".repeat(20_000), b"u".to_vec()].concat();
    let names = [text("k"), b"q\x02}".to_vec(), long, inner, b"s".to_vec()].concat();
    assert!(refused(&pickle(&names)).contains("names of more than"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn tensors_and_storages_that_lie() {
    for (tensor, expected) in [
        (tensor(7, 0, &[7], &[1]), "a/data/0 has 24 bytes; the pickle says 28"),
        (tensor(-1, 0, &[1], &[1]), "less than no bytes"),
        (tensor(i64::MAX, 0, &[1], &[1]), "more than can be counted"),
        (tensor(6, 0, &[7], &[1]), "reaches beyond"),
        (tensor(6, 6, &[1], &[1]), "reaches beyond"),
        (tensor(6, -1, &[1], &[1]), "below 0"),
        (tensor(6, 5, &[2], &[-1]), "below 0"),
        (tensor(6, 0, &[-2, -3], &[3, 1]), "below 0"),
        (tensor(6, 0, &[2, 2], &[i64::MAX, 1]), "reaches beyond"),
        (tensor(6, 0, &[i64::MAX, i64::MAX], &[0, 0]), "more numbers than can be counted"),
        (tensor(6, 0, &[4], &[i64::MAX]), "more numbers than can be counted"),
        (tensor(6, i64::MAX, &[2], &[i64::MAX]), "reaches beyond"),
        (tensor(6, 0, &[0, i64::MAX, i64::MAX], &[0, 0, 0]), "more numbers than can be counted"),
        (tensor(6, 0, &[i64::MAX], &[0]), "more numbers than can be counted"),
        (tensor(6, 0, &[1 << 40], &[0]), "reading these tensors takes"),
        (tensor(6, 0, &[2, 3], &[3]), "2 sizes and 1 strides"),
        (tensor(6, 0, &[1; 33], &[1; 33]), "expected the sizes of a tensor"),
    ] {
        let message = refused(&pickle(&dict(&[("w", tensor)])));
        assert!(message.contains(expected), "expected {expected:?} in {message}");
    }
    // Sizes of 1 are never stepped over, and empty tensors lie nowhere.
    for (shape, strides, bytes) in [
        (&[1, 6][..], &[i64::MAX, 1][..], 24),
        (&[3, 1], &[2, i64::MAX], 12),
        (&[0, 1 << 40, 7], &[i64::MAX, i64::MAX, 1], 0),
    ] {
        let checkpoint = read(&pickle(&dict(&[("w", tensor(6, 0, shape, strides))]))).expect("reads");
        let dict = checkpoint.state_dict(None).expect("has tensors");
        assert_eq!(checkpoint.bytes(dict.tensors["w"]).expect("reads").len(), bytes, "{shape:?}");
    }
    // One key for two storages.
    let other = tensor(6, 0, &[1], &[1]);
    let message = refused(&pickle(&dict(&[("a", tensor(5, 0, &[1], &[1])), ("b", other)])));
    assert!(message.contains("said to be something else"), "{message}");
}

#[test]
fn archives_that_lie() {
    let weights = pickle(&dict(&[("w", weight())]));
    let zeros = vec![0u8; 24];
    let parts: [File; 2] = [("a/data.pkl", &weights, false), ("a/data/0", &zeros, false)];
    let refused = |file: Vec<u8>| Checkpoint::from_bytes("test.pth", file).expect_err("must be refused").to_string();
    let lying = |name, size, packed| {
        let [pickle, storage] = parts;
        let files = [(pickle.0, pickle.1, packed), (storage.0, storage.1, packed)];
        zip_with(&files, &Lies { sizes: vec![(name, size)], wide: true })
    };
    assert!(refused(lying("a/data/0", 1 << 50, false)).contains("said to be 24 and 1125899906842624 bytes"));
    assert!(refused(lying("a/data/0", 1 << 50, true)).contains("a bomb"));
    assert!(refused(lying("a/data/0", 25, false)).contains("said to be 24 and 25 bytes"));
    assert!(refused(lying("a/data.pkl", 10, true)).contains("of its a/data.pkl"));
    assert!(refused(lying("a/data.pkl", u64::MAX, true)).contains("a bomb"));
    // Said to have more than it unpacks to: found out when it is read.
    let late = Checkpoint::from_bytes("test.pth", {
        let short = [("a/data.pkl", &weights[..], false), ("a/data/0", &zeros[..8], true)];
        zip_with(&short, &Lies { sizes: vec![("a/data/0", 24)], wide: false })
    })
    .expect("reads");
    let dict = late.state_dict(None).expect("has tensors");
    let message = late.bytes(dict.tensors["w"]).expect_err("too short").to_string();
    assert!(message.contains("expected 24 bytes from 0 on, found 8"), "{message}");
    // The same name twice, and two names for the same bytes.
    assert!(refused(zip(&[parts[0], parts[1], parts[1]])).contains("is there twice"));
    let mut overlapping = zip(&[parts[0], parts[1], ("a/data/1", &zeros, false)]);
    let places: Vec<usize> =
        (0..overlapping.len() - 4).filter(|i| overlapping[*i..].starts_with(b"PK\x01\x02")).map(|i| i + 42).collect();
    overlapping.copy_within(places[1]..places[1] + 4, places[2]);
    assert!(refused(overlapping).contains("overlap"));
    assert!(refused(zip(&[parts[1]])).contains("without a data.pkl"));
    assert!(refused(zip(&[parts[0]])).contains("speaks of a/data/0"));
    assert!(refused(zip(&[parts[0], parts[1], ("b/data.pkl", &weights, false)])).contains("several data.pkl"));
    assert!(refused(zip(&[parts[0], parts[1], ("a/constants.pkl", b"", false)])).contains("TorchScript"));
    assert!(refused(zip(&[parts[0], parts[1], ("a/byteorder", b"big", false)])).contains("byte order \"big\""));
    assert!(refused(b"PK\x03\x04".to_vec()).contains("without its end"));
    assert!(refused(b"<!DOCTYPE html>".to_vec()).contains("found something else"));
    assert!(refused(b"\x80\x02}.".to_vec()).contains("expected the number that checkpoints begin with"));
}

#[test]
fn a_packed_file_of_zeros_is_bounded_by_the_files_length() {
    // 16 MiB are spared to small files; 64 MiB of zeros pack to 64 kB, and are refused before they are unpacked.
    let zeros = vec![0u8; 64 << 20];
    let numel = (zeros.len() / 4) as i64;
    let weights = pickle(&dict(&[("w", tensor(numel, 0, &[numel], &[1]))]));
    let file = zip(&[("a/data.pkl", &weights, false), ("a/data/0", &zeros, true)]);
    assert!(file.len() < 100_000);
    let message = Checkpoint::from_bytes("test.pth", file).expect_err("must be refused").to_string();
    assert!(message.contains("a bomb"), "{message}");
}
