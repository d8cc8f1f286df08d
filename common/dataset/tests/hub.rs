//! The Hugging Face hub's Parquet files, against the official layouts of the same images.

mod support;

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use fleet_common::spec::DatasetName::{Cifar100, Dtd};
use fleet_dataset::{Dataset, Protocol, Split};
use image::{ImageFormat, Rgb, RgbImage};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use support::{fingerprint, identity, listed, mentions, refusal};

/// A row: image file, its name, labels in the order of the columns.
#[derive(Clone)]
struct Row {
    bytes: Vec<u8>,
    path: Option<&'static str>,
    labels: Vec<i64>,
}

/// Writes a file as the hub's `datasets` library does: a group for the image, optional columns, snappy, several row
/// groups.
fn write(file: &Path, image: &str, labels: &[&str], metadata: Option<String>, rows: &[Row]) {
    write_groups(file, image, labels, metadata, rows, 2);
}

fn write_groups(file: &Path, image: &str, labels: &[&str], metadata: Option<String>, rows: &[Row], of: usize) {
    let columns: String = labels.iter().map(|l| format!("optional int64 {l};")).collect();
    let text = format!(
        "message schema {{ optional group {image} {{ optional binary bytes; optional binary path (UTF8); }} {columns} }}"
    );
    let schema = Arc::new(parse_message_type(&text).expect("a schema"));
    let metadata = metadata.map(|value| vec![KeyValue::new("huggingface".into(), value)]);
    let properties =
        WriterProperties::builder().set_compression(Compression::SNAPPY).set_key_value_metadata(metadata).build();
    fs::create_dir_all(file.parent().expect("a folder")).expect("makes");
    let mut writer = SerializedFileWriter::new(fs::File::create(file).expect("creates"), schema, Arc::new(properties))
        .expect("writes");
    for group in rows.chunks(of) {
        let mut to = writer.next_row_group().expect("a group");
        let texts = [
            group.iter().map(|r| Some(ByteArray::from(r.bytes.clone()))).collect::<Vec<_>>(),
            group.iter().map(|r| r.path.map(ByteArray::from)).collect(),
        ];
        for column in texts {
            let levels: Vec<i16> = column.iter().map(|v| if v.is_some() { 2 } else { 1 }).collect();
            let values: Vec<ByteArray> = column.into_iter().flatten().collect();
            let mut next = to.next_column().expect("writes").expect("a column");
            next.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).expect("writes");
            next.close().expect("writes");
        }
        for at in 0..labels.len() {
            let values: Vec<i64> = group.iter().map(|r| r.labels[at]).collect();
            let mut next = to.next_column().expect("writes").expect("a column");
            next.typed::<Int64Type>().write_batch(&values, Some(&vec![1; values.len()]), None).expect("writes");
            next.close().expect("writes");
        }
        to.close().expect("writes");
    }
    writer.close().expect("writes");
}

fn named(label: &str, names: &[&str]) -> Option<String> {
    Some(
        serde_json::json!({ "info": { "features": { label: { "names": names, "_type": "ClassLabel" } } } }).to_string(),
    )
}

/// One of CIFAR-100's images, its PNG and its record.
fn cifar(fine: u8) -> (Row, Vec<u8>) {
    let image = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8 + 100, fine]));
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).expect("encodes");
    let mut record = vec![fine / 5, fine];
    for channel in 0..3 {
        record.extend(image.pixels().map(|p| p.0[channel]));
    }
    let labels = vec![i64::from(fine), i64::from(fine / 5)];
    (Row { bytes: png.into_inner(), path: None, labels }, record)
}

const CIFAR_LABELS: [&str; 2] = ["fine_label", "coarse_label"];

fn hub_cifar(data: &Path) {
    let rows = |fine: &[u8]| fine.iter().map(|f| cifar(*f).0).collect::<Vec<_>>();
    let folder = data.join("cifar100/cifar100");
    write(&folder.join("train-00000-of-00002.parquet"), "img", &CIFAR_LABELS, None, &rows(&[7, 99, 0]));
    write(&folder.join("train-00001-of-00002.parquet"), "img", &CIFAR_LABELS, None, &rows(&[3]));
    write(&folder.join("test-00000-of-00001.parquet"), "img", &CIFAR_LABELS, None, &rows(&[42, 3]));
}

#[test]
fn cifar_is_the_official_set_byte_for_byte() {
    let dir = tempfile::tempdir().expect("a folder");
    let (hub, official) = (dir.path().join("hub"), dir.path().join("official"));
    hub_cifar(&hub);
    let records = |fine: &[u8]| fine.iter().flat_map(|f| cifar(*f).1).collect::<Vec<u8>>();
    fs::create_dir_all(official.join("cifar-100-binary")).expect("makes");
    fs::write(official.join("cifar-100-binary/train.bin"), records(&[7, 99, 0, 3])).expect("writes");
    fs::write(official.join("cifar-100-binary/test.bin"), records(&[42, 3])).expect("writes");
    assert_eq!(fingerprint(&Cifar100, &hub), fingerprint(&Cifar100, &official));
    let dataset = Dataset::open(&Cifar100, &hub).expect("opens");
    assert_eq!(dataset.protocol(), Protocol::Resize);
    assert_eq!(dataset.decode(Split::Train, 1).expect("decodes").get_pixel(5, 9).0, [5, 109, 99]);
    let files: Vec<String> = dataset.files().into_iter().map(|(place, _)| place).collect();
    assert_eq!(files[0], "cifar100/cifar100/train-00000-of-00002.parquet");
    assert_eq!(files.len(), 3);
}

#[test]
fn what_is_not_cifar_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    hub_cifar(dir.path());
    let file = dir.path().join("cifar100/cifar100/test-00000-of-00001.parquet");
    let spoilt = |metadata, rows: &[Row], labels: &[&str]| {
        write(&file, "img", labels, metadata, rows);
        refusal(&Cifar100, dir.path())
    };
    let row = cifar(1).0;
    let error = spoilt(named("fine_label", &["apple", "baby"]), std::slice::from_ref(&row), &CIFAR_LABELS);
    mentions(&error, &["aquarium_fish", "baby", "class 1"]);
    let large = Row { labels: vec![100, 0], ..row.clone() };
    mentions(&spoilt(None, &[large], &CIFAR_LABELS), &["fine label 100"]);
    mentions(
        &spoilt(None, &[Row { labels: vec![-1, 0], ..row.clone() }], &CIFAR_LABELS),
        &["row 0", "fine label is -1"],
    );
    mentions(&spoilt(None, std::slice::from_ref(&row), &["fine_label"]), &["no column coarse_label", "img.bytes"]);
    let broken = Row { bytes: row.bytes[..60].to_vec(), ..row.clone() };
    mentions(&spoilt(None, &[broken], &CIFAR_LABELS), &["test-00000-of-00001.parquet", "row 0", "60 bytes"]);
    let mut small = Cursor::new(Vec::new());
    RgbImage::new(8, 9).write_to(&mut small, ImageFormat::Png).expect("encodes");
    let small = Row { bytes: small.into_inner(), ..row };
    mentions(&spoilt(None, &[small], &CIFAR_LABELS), &["8 × 9 pixels", "32 × 32"]);
    fs::remove_file(dir.path().join("cifar100/cifar100/train-00001-of-00002.parquet")).expect("removes");
    mentions(&refusal(&Cifar100, dir.path()), &["expected 2 parts", "found 1"]);
    fs::remove_file(&file).expect("removes");
    fs::remove_file(dir.path().join("cifar100/cifar100/train-00000-of-00002.parquet")).expect("removes");
    mentions(&refusal(&Cifar100, dir.path()), &["cifar100 is not there", "cifar100/*.parquet"]);
}

/// The images of the support's listed set, as rows; the classes in another order than by name.
fn dtd_rows(root: &Path, list: &str) -> Vec<Row> {
    let text = fs::read_to_string(root.join("labels").join(list)).expect("a list");
    let rows = text.lines().map(|line| {
        let (class, file) = line.split_once('/').expect("a class");
        let bytes = fs::read(root.join("images").join(line)).expect("an image");
        Row { bytes, path: Some(String::leak(file.to_owned())), labels: vec![i64::from(class == "dotted")] }
    });
    rows.collect()
}

#[test]
fn dtd_is_the_official_set_where_names_and_bytes_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let (hub, official) = (dir.path().join("hub"), dir.path().join("official"));
    listed(&official.join("dtd"));
    let rows = |list| dtd_rows(&official.join("dtd"), list);
    let names = || named("label", &["lined", "dotted"]);
    let (train, validation, test) = (rows("train1.txt"), rows("val1.txt"), rows("test1.txt"));
    let folder = hub.join("dtd/data");
    write(&folder.join("train-00000-of-00001.parquet"), "image", &["label"], names(), &train);
    write(&folder.join("validation-00000-of-00001.parquet"), "image", &["label"], names(), &validation);
    write(&folder.join("test-00000-of-00001.parquet"), "image", &["label"], names(), &test);
    assert_eq!(fingerprint(&Dtd, &hub), fingerprint(&Dtd, &official), "split 1, its names and its bytes");
    let (ours, theirs) = (Dataset::open(&Dtd, &hub).expect("opens"), Dataset::open(&Dtd, &official).expect("opens"));
    assert_eq!((ours.classes(), ours.len(Split::Train)), (theirs.classes(), 6));
    for index in 0..3 {
        assert_eq!(ours.label(Split::Test, index), theirs.label(Split::Test, index));
        let both = [&ours, &theirs].map(|set| set.decode(Split::Test, index).expect("decodes"));
        assert_eq!(both[0], both[1]);
    }
    // Training and validation in one file: the same set.
    fs::remove_file(folder.join("validation-00000-of-00001.parquet")).expect("removes");
    let both = [train.clone(), validation].concat();
    write(&folder.join("train-00000-of-00001.parquet"), "image", &["label"], names(), &both);
    assert_eq!(fingerprint(&Dtd, &hub), fingerprint(&Dtd, &official));
    // Without names nothing says that these are the same files: another data set, of the same images.
    let nameless: Vec<Row> = both.into_iter().map(|row| Row { path: None, ..row }).collect();
    write(&folder.join("train-00000-of-00001.parquet"), "image", &["label"], names(), &nameless);
    let dataset = Dataset::open(&Dtd, &hub).expect("opens");
    assert_ne!(identity(&dataset).fingerprint, fingerprint(&Dtd, &official));
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Test)), (6, 3));
    // Without classes in the file, DTD's own are meant, by their order.
    write(&folder.join("train-00000-of-00001.parquet"), "image", &["label"], None, &train);
    write(&folder.join("test-00000-of-00001.parquet"), "image", &["label"], None, &test);
    assert_eq!(Dataset::open(&Dtd, &hub).expect("opens").classes(), ["banded", "blotchy"]);
    let wrong: Vec<Row> = test.into_iter().map(|row| Row { labels: vec![47], ..row }).collect();
    write(&folder.join("test-00000-of-00001.parquet"), "image", &["label"], None, &wrong);
    mentions(&refusal(&Dtd, &hub), &["row 0 has the label 47", "0 to 46"]);
}

/// A data folder with these rows as DTD.
fn hub_dtd(data: &Path, train: &[Row], test: &[Row]) {
    for (half, rows) in [("train", train), ("test", test)] {
        write(&data.join(format!("dtd/data/{half}-00000-of-00001.parquet")), "image", &["label"], None, rows);
    }
}

#[test]
fn halves_are_not_empty_and_share_no_image() {
    let dir = tempfile::tempdir().expect("a folder");
    let row = |name, bytes: &[u8]| Row { bytes: bytes.to_vec(), path: Some(name), labels: vec![0] };
    hub_dtd(dir.path(), &[row("a.jpg", b"a")], &[]);
    mentions(&refusal(&Dtd, dir.path()), &["has no test images"]);
    hub_dtd(dir.path(), &[], &[row("a.jpg", b"a")]);
    mentions(&refusal(&Dtd, dir.path()), &["has no training images"]);
    hub_dtd(dir.path(), &[row("a.jpg", b"a"), row("b.jpg", b"b")], &[row("b.jpg", b"b")]);
    mentions(&refusal(&Dtd, dir.path()), &["banded/b.jpg twice", "both halves"]);
    hub_dtd(dir.path(), &[row("a.jpg", b"a"), row("a.jpg", b"a")], &[row("b.jpg", b"b")]);
    mentions(&refusal(&Dtd, dir.path()), &["banded/a.jpg twice"]);
    // Halves that are numbered each for itself have the same names for different images.
    hub_dtd(dir.path(), &[row("0.jpg", b"a")], &[row("0.jpg", b"b")]);
    assert_eq!(Dataset::open(&Dtd, dir.path()).expect("opens").len(Split::Test), 1);
}

#[test]
fn what_unpacks_to_far_more_than_it_is_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let row = |bytes: usize| Row { bytes: vec![0; bytes], path: None, labels: vec![0] };
    hub_dtd(dir.path(), &[row((64 << 20) + 1)], &[row(1)]);
    mentions(&refusal(&Dtd, dir.path()), &["row 0 has 67108865 bytes", "at most 67108864"]);
    // Zeros take next to nothing in the file.
    hub_dtd(dir.path(), &vec![row(20 << 20); 6], &[row(1)]);
    mentions(&refusal(&Dtd, dir.path()), &["unpacks to more than", "8 times"]);
    hub_dtd(dir.path(), &[row(20 << 20)], &[row(1)]);
    Dataset::open(&Dtd, dir.path()).expect("opens");
}

/// One image that is said again and again takes no room in a file, and would in memory.
#[test]
fn a_small_file_of_many_rows_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    hub_cifar(dir.path());
    let file = dir.path().join("cifar100/cifar100/test-00000-of-00001.parquet");
    let rows = vec![cifar(3).0; 200_000];
    write_groups(&file, "img", &CIFAR_LABELS, None, &rows, rows.len());
    mentions(&refusal(&Cifar100, dir.path()), &["200000 rows in", "expected at most"]);
}

/// Whatever is done to a file, opening it ends, with a data set or an error.
#[test]
fn damaged_files_are_errors_and_no_panics() {
    let dir = tempfile::tempdir().expect("a folder");
    hub_cifar(dir.path());
    let file = dir.path().join("cifar100/cifar100/test-00000-of-00001.parquet");
    let whole = fs::read(&file).expect("reads");
    for length in (0..whole.len()).step_by(whole.len() / 60) {
        fs::write(&file, &whole[..length]).expect("writes");
        mentions(&refusal(&Cifar100, dir.path()), &["test-00000-of-00001.parquet"]);
    }
    let footer = whole.len() - 700;
    for at in (footer..whole.len()).chain((0..footer).step_by(97)) {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            fs::write(&file, &bytes).expect("writes");
            let _ = Dataset::open(&Cifar100, dir.path());
        }
    }
}

/// The library passes over a list of booleans without a byte for each; a thousand such lists take it minutes.
#[test]
fn lists_that_only_say_that_they_are_long_are_refused_at_once() {
    // Fields from 15 on, each a list of 2³¹ − 1 booleans.
    let mut lists = [0x19, 0xf2, 0xff, 0xff, 0xff, 0xff, 0x07].repeat(1000);
    lists[0] = 0xf9;
    let dir = tempfile::tempdir().expect("a folder");
    hub_cifar(dir.path());
    let file = dir.path().join("cifar100/cifar100/test-00000-of-00001.parquet");
    let whole = fs::read(&file).expect("reads");
    let refused = || mentions(&refusal(&Cifar100, dir.path()), &["test-00000-of-00001", "a list of 2147483647 values"]);

    // In the header of the first page, which stands behind the format's mark.
    let mut page = whole.clone();
    page[4..704].copy_from_slice(&lists[..700]);
    fs::write(&file, &page).expect("writes");
    refused();

    let mut metadata = b"PAR1".to_vec();
    metadata.extend(&lists);
    metadata.push(0);
    metadata.extend((lists.len() as u32 + 1).to_le_bytes());
    metadata.extend(b"PAR1");
    fs::write(&file, &metadata).expect("writes");
    refused();
}

#[test]
fn a_page_that_only_says_that_it_is_large_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    hub_cifar(dir.path());
    let file = dir.path().join("cifar100/cifar100/test-00000-of-00001.parquet");
    let mut bytes = fs::read(&file).expect("reads");
    // The header's first field is its type; the second is made 2³¹ − 1, and what was there is overwritten.
    bytes[4..12].copy_from_slice(&[0x15, 0x04, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f]);
    fs::write(&file, &bytes).expect("writes");
    mentions(&refusal(&Cifar100, dir.path()), &["a page of 2147483647 bytes or values; expected at most 536870912"]);
}
