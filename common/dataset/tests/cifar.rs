//! CIFAR-100's binary layout, as a folder and as the archive.

mod support;

use std::fs;
use std::path::Path;

use fleet_common::spec::DatasetName::Cifar100;
use fleet_dataset::{Dataset, Protocol, Split};
use support::{fingerprint, identity, mentions, refusal};

const RECORD: usize = 3074;

/// One record: each plane counts pixels in its own way, so that a mistaken order of planes or pixels shows.
fn record(fine: u8) -> Vec<u8> {
    let mut bytes = vec![0, fine];
    for plane in [0u32, 1, 2] {
        bytes.extend((0..1024).map(|pixel| match plane {
            0 => (pixel % 32) as u8,
            1 => (pixel / 32) as u8 + 100,
            _ => fine,
        }));
    }
    bytes
}

fn train() -> Vec<u8> {
    [7, 99, 0].into_iter().flat_map(record).collect()
}

fn test() -> Vec<u8> {
    [42, 3].into_iter().flat_map(record).collect()
}

fn write(folder: &Path, train: &[u8], test: &[u8]) {
    fs::create_dir_all(folder).expect("makes the folder");
    fs::write(folder.join("train.bin"), train).expect("writes");
    fs::write(folder.join("test.bin"), test).expect("writes");
}

/// A data folder with the set unpacked, after `spoil` changed it.
fn unpacked(spoil: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("cifar-100-binary");
    write(&folder, &train(), &test());
    spoil(&folder);
    dir
}

fn spoilt(spoil: impl FnOnce(&Path)) -> String {
    refusal(&Cifar100, unpacked(spoil).path())
}

/// A data folder with an archive of these members.
fn packed(members: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let file = fs::File::create(dir.path().join("cifar-100-binary.tar.gz")).expect("creates");
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).expect("appends");
    }
    tar.into_inner().and_then(|gzip| gzip.finish()).expect("finishes");
    dir
}

fn members<'a>(train: &'a [u8], test: &'a [u8]) -> Vec<(&'static str, &'a [u8])> {
    vec![
        ("cifar-100-binary/file.txt~", b"as in the official one"),
        ("cifar-100-binary/train.bin", train),
        ("cifar-100-binary/test.bin", test),
    ]
}

#[test]
fn labels_are_the_fine_ones_and_planes_are_red_green_blue() {
    let dir = unpacked(|_| ());
    let dataset = Dataset::open(&Cifar100, dir.path()).expect("opens");
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Test)), (3, 2));
    assert_eq!(dataset.protocol(), Protocol::Resize);
    assert_eq!(dataset.classes().len(), 100);
    let name = |split, index| dataset.classes()[dataset.label(split, index) as usize].as_str();
    assert_eq!([name(Split::Train, 0), name(Split::Train, 1), name(Split::Train, 2)], ["beetle", "worm", "apple"]);
    assert_eq!([name(Split::Test, 0), name(Split::Test, 1)], ["leopard", "bear"]);
    let image = dataset.decode(Split::Train, 1).expect("decodes");
    assert_eq!(image.dimensions(), (32, 32));
    assert_eq!(image.get_pixel(5, 9).0, [5, 109, 99]);
    let identity = identity(&dataset);
    assert_eq!((identity.classes, identity.train, identity.test), (100, 3, 2));
}

#[test]
fn the_folder_and_the_archive_are_the_same_data() {
    let folder = unpacked(|_| ());
    let (train, test) = (train(), test());
    let archive = packed(&members(&train, &test));
    let expected = fingerprint(&Cifar100, folder.path());
    assert_eq!(fingerprint(&Cifar100, archive.path()), expected);
    assert_eq!(fs::read_dir(archive.path()).expect("a folder").count(), 1, "nothing is unpacked to disk");
    let dotted = packed(&[("./cifar-100-binary/train.bin", &train), ("./cifar-100-binary/test.bin", &test)]);
    assert_eq!(fingerprint(&Cifar100, dotted.path()), expected);

    // The definition, computed by hand.
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    hash.update(b"fleet-dataset cifar100 1\n");
    hash.update(Sha256::digest(&train));
    hash.update(Sha256::digest(&test));
    assert_eq!(expected, fleet_common::canonical::hex(&hash.finalize()));
}

#[test]
fn any_byte_changes_the_fingerprint_and_files_not_read_do_not() {
    let expected = fingerprint(&Cifar100, unpacked(|_| ()).path());
    let other = unpacked(|folder| fs::write(folder.join("coarse_label_names.txt"), "x").expect("writes"));
    assert_eq!(fingerprint(&Cifar100, other.path()), expected);
    for (file, mut bytes) in [("train.bin", train()), ("test.bin", test())] {
        bytes[1000] ^= 1;
        let changed = unpacked(|folder| fs::write(folder.join(file), &bytes).expect("writes"));
        assert_ne!(fingerprint(&Cifar100, changed.path()), expected, "{file}");
    }
    let swapped = unpacked(|folder| write(folder, &test(), &train()));
    assert_ne!(fingerprint(&Cifar100, swapped.path()), expected);
}

#[test]
fn progress_ends_at_the_size_of_both_files() {
    let dataset = Dataset::open(&Cifar100, unpacked(|_| ()).path()).expect("opens");
    let mut last = (0, 0);
    dataset.identify(&mut |done, total| last = (done, total)).expect("identifies");
    assert_eq!(last, (5 * RECORD as u64, 5 * RECORD as u64));
}

#[test]
fn an_absent_set_is_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("cifar-100-python.tar.gz"), "").expect("writes");
    let error = refusal(&Cifar100, dir.path());
    mentions(&error, &["/cifar-100-binary and ", "/cifar-100-binary.tar.gz", "holds cifar-100-python.tar.gz"]);
    mentions(&error, &["not the Python one", "https://www.cs.toronto.edu/~kriz/cifar.html"]);
    let error = spoilt(|folder| fs::remove_file(folder.join("test.bin")).expect("removes"));
    mentions(&error, &["no file test.bin", "holds train.bin"]);
}

#[test]
fn a_length_that_is_no_number_of_records_is_refused() {
    let error = spoilt(|folder| fs::write(folder.join("train.bin"), &train()[..RECORD + 100]).expect("writes"));
    mentions(&error, &["train.bin", "3174 bytes", "records of 3074", "byte 3074", "only 100"]);
    let error = spoilt(|folder| fs::write(folder.join("test.bin"), "").expect("writes"));
    mentions(&error, &["test.bin", "has 0 bytes"]);
}

#[test]
fn a_label_out_of_range_is_refused_with_its_offset() {
    let mut bytes = train();
    bytes[2 * RECORD + 1] = 100;
    let error = spoilt(|folder| fs::write(folder.join("train.bin"), &bytes).expect("writes"));
    mentions(&error, &["train.bin", "byte 6149 (record 2)", "fine label 100", "expected 0 to 99"]);
    let test = test();
    let archive = packed(&members(&bytes, &test));
    let error = refusal(&Cifar100, archive.path());
    mentions(&error, &["cifar-100-binary.tar.gz/cifar-100-binary/train.bin", "byte 6149"]);
}

#[test]
fn class_names_may_be_absent_but_not_different() {
    let dataset = Dataset::open(&Cifar100, unpacked(|_| ()).path()).expect("opens");
    let names = dataset.classes().to_vec();
    let with = |names: &[String]| {
        let text = names.join("\n");
        unpacked(|folder| fs::write(folder.join("fine_label_names.txt"), text + "\n\n").expect("writes"))
    };
    Dataset::open(&Cifar100, with(&names).path()).expect("the official names");
    let mut swapped = names.clone();
    swapped.swap(1, 2);
    let error = refusal(&Cifar100, with(&swapped).path());
    mentions(&error, &["fine_label_names.txt:2:", "expected", "\"aquarium_fish\", found \"baby\""]);
    let error = refusal(&Cifar100, with(&names[..99]).path());
    mentions(&error, &[":100:", "\"worm\", found the end of the file"]);
    let more = [names, vec!["yak".to_owned()]].concat();
    mentions(&refusal(&Cifar100, with(&more).path()), &[":101:", "found \"yak\""]);
}

#[test]
fn broken_archives_are_refused() {
    let (train, test) = (train(), test());
    let error = refusal(&Cifar100, packed(&members(&train, &test)[..2]).path());
    mentions(&error, &["cifar-100-binary.tar.gz: has no member cifar-100-binary/test.bin"]);
    let twice = [members(&train, &test), members(&test, &test)].concat();
    mentions(&refusal(&Cifar100, packed(&twice).path()), &["train.bin: is in the archive twice"]);

    let dir = packed(&members(&train, &test));
    let path = dir.path().join("cifar-100-binary.tar.gz");
    let bytes = fs::read(&path).expect("an archive");
    // In the members, in the tar's end, and in gzip's checksum.
    for length in [0, 11, bytes.len() / 2, bytes.len() - 9, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).expect("writes");
        mentions(&refusal(&Cifar100, dir.path()), &["cifar-100-binary.tar.gz", "Fetch it again"]);
    }
    let mut flipped = bytes.clone();
    let checksum = bytes.len() - 6;
    flipped[checksum] ^= 1;
    fs::write(&path, &flipped).expect("writes");
    mentions(&refusal(&Cifar100, dir.path()), &["not a whole .tar.gz archive", "Fetch it again"]);
    fs::write(&path, &bytes).expect("writes");
    Dataset::open(&Cifar100, dir.path()).expect("opens when whole");
}

#[test]
fn a_hostile_archive_cannot_make_us_allocate() {
    // A header that claims 300 MB, and nothing behind it: refused by the claim, before anything is read.
    let dir = tempfile::tempdir().expect("a folder");
    let mut header = tar::Header::new_ustar();
    header.set_path("cifar-100-binary/train.bin").expect("a path");
    header.set_size(300_000_000);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let file = fs::File::create(dir.path().join("cifar-100-binary.tar.gz")).expect("creates");
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, header.as_bytes()).expect("writes");
    gzip.finish().expect("finishes");
    mentions(&refusal(&Cifar100, dir.path()), &["train.bin: is longer than 200000000 bytes", "153,700,000"]);

    // Half a gigabyte of zeros in a member that is not wanted: the reader stops at its bound.
    let (train, test) = (train(), test());
    let zeros = vec![0; 60_000_000];
    let mut many = members(&train, &test);
    many.extend(["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(|name| (name, zeros.as_slice())));
    let error = refusal(&Cifar100, packed(&many).path());
    mentions(&error, &["cifar-100-binary.tar.gz: unpacks to more than 500000000 bytes", "expected CIFAR-100's 185 MB"]);
}
