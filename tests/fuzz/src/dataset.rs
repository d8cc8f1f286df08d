//! Images and data sets.

use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use fleet_common::spec::DatasetName;
use fleet_dataset::{Dataset, Split, decode_bytes};

use crate::archives::tar;
use crate::bytes::Choices;
use crate::folder::Folder;

/// An image file.
pub fn image(bytes: &[u8]) {
    if let Ok(image) = decode_bytes(bytes) {
        assert_eq!(image.as_raw().len() as u64, 3 * u64::from(image.width()) * u64::from(image.height()));
    }
}

/// Bytes of a record of CIFAR-100.
const RECORD: usize = 2 + 3 * 32 * 32;

/// The archive of CIFAR-100, whose files have records of any labels, a few bytes more or less, or anything.
pub fn cifar(bytes: &[u8]) {
    let mut c = Choices(bytes);
    let names =
        ["train.bin", "test.bin", "fine_label_names.txt", "../test.bin", ""].map(|n| format!("cifar-100-binary/{n}"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plain = tar(&mut c, &names, |c| match c.u8() % 4 {
        0 => c.some(512).to_vec(),
        n => {
            let labels = c.take(n.into()).to_vec();
            let mut records: Vec<u8> = labels.iter().flat_map(|l| [&[0, *l][..], &[7; RECORD - 2]].concat()).collect();
            records.truncate(records.len().saturating_sub(c.pick(&[0, 0, 0, 1, RECORD])));
            records
        }
    });
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    let packed = packed.write_all(&plain).and_then(|()| packed.finish()).expect("into memory");
    let packed = &packed[..packed.len().saturating_sub(c.pick(&[0, 0, 0, 1, 9]))];
    let folder = Folder::new();
    folder.write("cifar-100-binary.tar.gz", packed);
    read(&DatasetName::Cifar100, folder.path());
}

/// DTD's lists, beside a folder that has some of what they name. A zero byte ends a list.
pub fn lists(bytes: &[u8]) {
    let folder = Folder::new();
    for image in ["banded/banded_1.jpg", "banded/banded_2.jpg", "dotted/dotted_1.jpg", "dotted/d ä.jpg"] {
        folder.write(&format!("dtd/images/{image}"), b"\xff\xd8\xff\xd9");
    }
    let lists = bytes.split(|b| *b == 0).chain(std::iter::repeat(&b""[..]));
    for (name, list) in ["train1", "val1", "test1"].into_iter().zip(lists) {
        folder.write(&format!("dtd/labels/{name}.txt"), list);
    }
    read(&DatasetName::Dtd, folder.path());
}

/// The hub's Parquet files. The first byte says of which data set; the others are one file, which both splits have.
pub fn hub(bytes: &[u8]) {
    let Some((kind, file)) = bytes.split_first() else { return };
    // A fuzzer's own hook ends the process at any panic. The reader catches those of the library that it uses, and what
    // it does not catch ends the process as well.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let (name, called) = match kind % 2 {
        0 => (DatasetName::Cifar100, "cifar100"),
        _ => (DatasetName::Dtd, "dtd"),
    };
    let folder = Folder::new();
    for split in ["train", "test"] {
        folder.write(&format!("{called}/{split}-00000-of-00001.parquet"), file);
    }
    read(&name, folder.path());
}

/// Every image of a data set that opens has a class, and its files are in its folder.
fn read(name: &DatasetName, dir: &Path) {
    let Ok(data) = Dataset::open(name, dir) else { return };
    for split in Split::ALL {
        assert!(data.len(split) > 0);
        for index in 0..data.len(split) {
            assert!((data.label(split, index) as usize) < data.classes().len());
        }
        // A small file can say the same image a hundred thousand times.
        for index in 0..data.len(split).min(64) {
            let _ = data.decode(split, index);
        }
    }
    data.identify(&mut |_, _| ()).expect("what was opened can be read");
}
