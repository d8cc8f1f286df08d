//! A data set's whole way here, with a small one: fetched, unpacked, checked, and found there the next time.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fleet_common::canonical::hex;
use fleet_common::spec::DatasetName;
use fleet_download::content::{Content, Size};
use fleet_download::fetch::Patience;
use fleet_download::source::Source;
use sha2::{Digest, Sha256};

use super::get::get;
use super::set::Set;

/// Two classes in DTD's layout: one image of each in each list.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut add = |name: &str, body: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, body).expect("appends");
    };
    for (number, list) in ["train1", "val1", "test1"].into_iter().enumerate() {
        let files = ["dotted", "lined"].map(|class| format!("{class}/{class}_{number}.jpg"));
        for file in &files {
            add(&format!("dtd/images/{file}"), file.as_bytes());
        }
        add(&format!("dtd/labels/{list}.txt"), files.join("\n").as_bytes());
    }
    tar.into_inner().expect("ends").finish().expect("ends")
}

/// What must come, for as long as the test runs.
fn set(archive: &[u8]) -> Set {
    let content = Content {
        size: Size::Exactly(archive.len() as u64),
        sha256: String::leak(hex(&Sha256::digest(archive))),
        md5: None,
    };
    let source = Source { name: "dtd", url: "http://127.0.0.1:9/", file: "small.tar.gz", content, terms: "none" };
    Set { name: DatasetName::Dtd, source, folder: "dtd", unpacked: true, sizes: [2, 4, 2] }
}

/// A server of one file, and how often it was asked.
fn serve(file: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/small.tar.gz", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let head = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            count.fetch_add(head.count().min(1), Ordering::SeqCst);
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", file.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&file)).expect("answers");
        }
    });
    (url, asked)
}

fn patience() -> Patience {
    Patience { proxies: false, ..Patience::default() }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("lists");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn a_set_is_fetched_once_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let archive = archive();
    let set = set(&archive);
    let (url, asked) = serve(archive);
    // What an interrupted command left.
    fs::create_dir_all(data.join(".dtd.partial/dtd/images")).expect("makes");
    let first = get(&set, &data, Some(&url), &patience()).expect("gets");
    assert_eq!((first.identity.classes, first.identity.train, first.identity.test), (2, 4, 2));
    assert_eq!(names(&data), ["dtd"]);
    assert!(first.place.ends_with("dtd"));
    let second = get(&set, &data, Some(&url), &patience()).expect("is there");
    assert_eq!(second.identity, first.identity);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn an_archive_that_was_brought_along_is_used_and_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let archive = archive();
    fs::write(dir.path().join("small.tar.gz"), &archive).expect("writes");
    get(&set(&archive), dir.path(), None, &patience()).expect("gets");
    assert_eq!(names(dir.path()), ["dtd", "small.tar.gz"]);
}

#[test]
fn what_is_in_the_way_is_renamed() {
    let dir = tempfile::tempdir().expect("a folder");
    let archive = archive();
    fs::create_dir(dir.path().join("dtd")).expect("makes");
    fs::write(dir.path().join("dtd/mine"), "mine").expect("writes");
    fs::write(dir.path().join("small.tar.gz"), "mine too").expect("writes");
    let (url, _) = serve(archive.clone());
    get(&set(&archive), dir.path(), Some(&url), &patience()).expect("gets");
    assert_eq!(names(dir.path()), ["dtd", "dtd.replaced", "small.tar.gz.replaced"]);
    assert_eq!(fs::read(dir.path().join("dtd.replaced/mine")).expect("stays"), b"mine");
}

#[test]
fn a_part_of_a_set_is_not_the_set() {
    let dir = tempfile::tempdir().expect("a folder");
    let archive = archive();
    let mut set = set(&archive);
    let (url, _) = serve(archive);
    get(&set, dir.path(), Some(&url), &patience()).expect("gets");
    set.sizes = [2, 4, 3];
    let message = set.check(dir.path()).expect_err("is not");
    for part in ["expected 2 classes, 4 training and 3 test", "found 2 classes, 4 training and 2 test", "get"] {
        assert!(message.contains(part), "expected \"{part}\" in: {message}");
    }
    // Not even by getting it: what came out of the archive is looked at before it takes the place of what is there.
    let message = get(&set, dir.path(), Some(&url), &patience()).expect_err("is not");
    assert!(message.message().is_some_and(|m| m.contains("found 2 classes")), "{message:?}");
    assert!(!dir.path().join("dtd.replaced").exists());
}
