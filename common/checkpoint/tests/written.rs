//! Checkpoints written byte by byte: what torch does not write today, but may be met.

mod support;

use fleet_checkpoint::Checkpoint;
use support::*;

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

const SIX: [f32; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];

fn transposed() -> Vec<u8> {
    pickle(&dict(&[("w", tensor(6, 0, &[3, 2], &[1, 3]))]))
}

/// The numbers of `w`.
fn numbers(file: Vec<u8>) -> Vec<u8> {
    let checkpoint = Checkpoint::from_bytes("test.pth", file).expect("reads");
    let dict = checkpoint.state_dict(None).expect("has tensors");
    checkpoint.bytes(dict.tensors["w"]).expect("reads")
}

#[test]
fn archives_with_wide_sizes_and_packed_entries_are_the_same() {
    let (pickle, six) = (transposed(), floats(&SIX));
    let expected = floats(&[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    for (wide, packed) in [(false, false), (true, false), (false, true), (true, true)] {
        let files = [("a/data.pkl", &pickle[..], packed), ("a/data/0", &six, packed)];
        let file = zip_with(&files, &Lies { wide, ..Lies::default() });
        assert_eq!(numbers(file), expected, "wide {wide}, packed {packed}");
    }
    // A name without a folder, and a comment at the end.
    let mut file = zip(&[("data.pkl", &pickle, false), ("data/0", &six, false)]);
    let len = file.len();
    file[len - 2] = 5;
    file.extend(b"hello");
    assert_eq!(numbers(file), expected);
}

#[test]
fn views_of_storages_in_old_files_begin_where_they_say() {
    let part = [text("v"), int(2), int(3), b"\x87".to_vec()].concat();
    let fields = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), int(6), part].concat();
    let storage = [b"(".to_vec(), fields, b"tQ".to_vec()].concat();
    let tensor = |offset: i64, len: i64| {
        let rest = [storage.clone(), int(offset), tuple(&[len]), tuple(&[1])].concat();
        [b"ctorch._utils\n_rebuild_tensor\n(".to_vec(), rest, b"tR".to_vec()].concat()
    };
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    let file = |value: &[u8], little: &[u8]| {
        let machine = pickle(&dict(&[("little_endian", little.to_vec())]));
        let keys = pickle(&[b"]".to_vec(), text("0"), b"a".to_vec()].concat());
        [magic.clone(), machine, pickle(value), keys, 6u64.to_le_bytes().to_vec(), floats(&SIX)].concat()
    };
    assert_eq!(numbers(file(&dict(&[("w", tensor(1, 2))]), b"\x88")), floats(&[3.0, 4.0]));
    let refused = |file| Checkpoint::from_bytes("test.pth", file).expect_err("must be refused").to_string();
    let beyond = refused(file(&dict(&[("w", tensor(1, 3))]), b"\x88"));
    assert!(beyond.contains("may use 3 numbers"), "{beyond}");
    let big = refused(file(&dict(&[("w", tensor(1, 2))]), b"\x89"));
    assert!(big.contains("little_endian"), "{big}");
    let mut cut = file(&dict(&[("w", tensor(1, 2))]), b"\x88");
    cut.truncate(cut.len() - 1);
    assert!(refused(cut).contains("cut off"));
}

#[test]
fn dicts_of_python_2_and_repeated_keys() {
    let pair = |key: &str, value: Vec<u8>| [b"](".to_vec(), text(key), value, b"e".to_vec()].concat();
    let pairs = [pair("v", tensor(6, 0, &[1], &[1])), pair("w", tensor(6, 4, &[2], &[1]))].concat();
    let ordered = [b"ccollections\nOrderedDict\n](".to_vec(), pairs, b"e\x85R".to_vec()].concat();
    let six = floats(&SIX);
    assert_eq!(numbers(archive(&pickle(&ordered), &six)), floats(&[4.0, 5.0]));
    // The last one counts, as in Python.
    let twice = dict(&[("w", tensor(6, 0, &[1], &[1])), ("w", tensor(6, 5, &[1], &[1]))]);
    assert_eq!(numbers(archive(&pickle(&twice), &six)), floats(&[5.0]));
    let nested = |n| dict(&[("w", tensor(6, n, &[1], &[1]))]);
    let models = dict(&[("model", nested(0)), ("model", nested(4))]);
    assert_eq!(numbers(archive(&pickle(&models), &six)), floats(&[4.0]));
}

#[test]
fn the_prefix_of_parallel_training_goes_only_where_all_have_it() {
    let names = |entries: &[(&str, Vec<u8>)]| {
        let checkpoint = read(&pickle(&dict(entries))).expect("reads");
        checkpoint.state_dict(None).expect("has tensors").tensors.into_keys().collect::<Vec<_>>()
    };
    let one = || tensor(6, 0, &[1], &[1]);
    assert_eq!(names(&[("module.a", one()), ("module.b", one())]), ["a", "b"]);
    assert_eq!(names(&[("module.a", one()), ("b", one())]), ["b", "module.a"]);
    // The first key that has tensors, in the order of the list rather than the file's.
    assert_eq!(names(&[("model", dict(&[("lr", int(1))])), ("state_dict", dict(&[("x", one())]))]), ["x"]);
    assert_eq!(names(&[("net", dict(&[("n", one())])), ("model", dict(&[("m", one())]))]), ["m"]);
}
