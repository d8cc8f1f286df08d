//! Downloads from servers that behave, and from those that do not.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fleet_download::DownloadError;
use fleet_download::content::{Content, Size};
use fleet_download::fetch::{Event, fetch};
use support::{Server, bytes, content, patience, send, serve, sha256};
use tempfile::TempDir;

const ALL: usize = usize::MAX;

/// A folder to fetch to, what must come, and what was told.
struct Case {
    dir: TempDir,
    file: Vec<u8>,
    hash: String,
}

impl Case {
    fn new(length: usize) -> Self {
        let file = bytes(length, 1);
        let hash = sha256(&file);
        Self { dir: tempfile::tempdir().expect("a folder"), file, hash }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("file.bin")
    }

    fn content(&self) -> Content<'_> {
        content(&self.file, &self.hash)
    }

    fn fetch(&self, url: &str) -> (Result<Option<PathBuf>, DownloadError>, Vec<Event>) {
        self.fetch_as(url, &self.content())
    }

    fn fetch_as(&self, url: &str, content: &Content<'_>) -> (Result<Option<PathBuf>, DownloadError>, Vec<Event>) {
        let mut told = Vec::new();
        let result = fetch(url, &self.place(), content, &patience(), &mut |event| told.push(event));
        (result, told)
    }

    /// The file is there, and nothing beside it.
    #[track_caller]
    fn is_there(&self) {
        assert!(fs::read(self.place()).expect("the file") == self.file, "another content");
        assert_eq!(names(self.dir.path()), ["file.bin"]);
    }

    fn partial(&self) -> PathBuf {
        self.dir.path().join("file.bin.partial")
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("lists");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[track_caller]
fn refused(result: Result<Option<PathBuf>, DownloadError>, parts: &[&str]) {
    let message = result.expect_err("must fail").to_string();
    for part in parts {
        assert!(message.contains(part), "expected \"{part}\" in: {message}");
    }
}

fn starts_over(told: &[Event]) -> usize {
    told.iter().filter(|e| matches!(e, Event::StartsOver { .. })).count()
}

#[test]
fn comes_whole() {
    let case = Case::new(300_000);
    let file = case.file.clone();
    let server = Server::new(move |request, _, stream| serve(stream, request, &file, "a", ALL));
    let (result, told) = case.fetch(&server.url("/file.bin"));
    assert_eq!(result.expect("fetches"), None);
    case.is_there();
    assert_eq!(server.ranges(), [None]);
    assert_eq!(told.last(), Some(&Event::Checks));
    assert!(told.contains(&Event::Have { bytes: 300_000, of: Some(300_000) }), "{told:?}");
}

#[test]
fn only_what_is_missing_comes_after_a_break() {
    let case = Case::new(300_000);
    let file = case.file.clone();
    let server = Server::new(move |request, number, stream| {
        serve(stream, request, &file, "a", if number < 2 { 100_000 } else { ALL });
    });
    let (result, told) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert_eq!(server.ranges(), [None, Some(100_000), Some(200_000)]);
    assert_eq!(server.asked()[1].if_range.as_deref(), Some("\"a\""));
    assert_eq!(told.iter().filter(|e| matches!(e, Event::Pauses { .. })).count(), 2);
    assert_eq!(starts_over(&told), 0);
}

#[test]
fn a_later_command_goes_on_where_an_earlier_one_gave_up() {
    let case = Case::new(300_000);
    let file = case.file.clone();
    // Nothing after the first part, until the fifth request.
    let server = Server::new(move |request, number, stream| {
        let most = if number == 0 { 100_000 } else { 0 };
        serve(stream, request, &file, "a", if number < 4 { most } else { ALL });
    });
    let (result, _) = case.fetch(&server.url("/file.bin"));
    refused(result, &["broke", "tried 4 times", "100000 bytes are kept", "same command"]);
    assert_eq!(fs::metadata(case.partial()).expect("kept").len(), 100_000);
    assert!(!case.place().exists());
    let (result, told) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert_eq!(told[0], Event::GoesOn { bytes: 100_000 });
    assert_eq!(server.ranges().last(), Some(&Some(100_000)));
}

#[test]
fn a_line_that_breaks_often_but_gets_on_is_no_reason_to_give_up() {
    let case = Case::new(9 << 20);
    let file = case.file.clone();
    let server = Server::new(move |request, _, stream| serve(stream, request, &file, "a", 5 << 18));
    let (result, _) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert!(server.asked().len() > patience().tries as usize, "{}", server.asked().len());
}

#[test]
fn a_server_that_ignores_ranges_sends_all_again() {
    let case = Case::new(300_000);
    let file = case.file.clone();
    let server = Server::new(move |_, number, stream| {
        let length = format!("Content-Length: {}", file.len());
        send(stream, "200 OK", &[&length, "ETag: \"a\""], &file[..if number == 0 { 100_000 } else { file.len() }]);
    });
    let (result, told) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert_eq!(server.ranges(), [None, Some(100_000)]);
    assert_eq!(starts_over(&told), 1);
}

#[test]
fn without_a_name_for_the_version_nothing_is_gone_on_with() {
    let case = Case::new(300_000);
    let file = case.file.clone();
    let server = Server::new(move |_, number, stream| {
        let length = format!("Content-Length: {}", file.len());
        // A weak tag says that versions are alike, not that they are the same.
        send(stream, "200 OK", &[&length, "ETag: W/\"a\""], &file[..if number == 0 { 100_000 } else { file.len() }]);
    });
    let (result, _) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert_eq!(server.ranges(), [None, None]);
}

#[test]
fn a_file_that_changed_meanwhile_starts_over() {
    let case = Case::new(300_000);
    let (new, old) = (case.file.clone(), bytes(300_000, 2));
    let server = Server::new(move |request, number, stream| match number {
        0 => serve(stream, request, &old, "old", 100_000),
        _ => serve(stream, request, &new, "new", ALL),
    });
    let (result, told) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert_eq!(server.asked()[1].if_range.as_deref(), Some("\"old\""));
    assert_eq!(starts_over(&told), 1);
}

#[test]
fn parts_of_different_files_are_noticed_and_fetched_once_more() {
    let case = Case::new(300_000);
    let (new, old) = (case.file.clone(), bytes(300_000, 2));
    // One name for two versions.
    let server = Server::new(move |request, number, stream| match number {
        0 => serve(stream, request, &old, "same", 100_000),
        _ => serve(stream, request, &new, "same", ALL),
    });
    let (result, told) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert_eq!(server.ranges(), [None, Some(100_000), None]);
    assert_eq!(starts_over(&told), 1);
}

#[test]
fn a_wrong_file_is_refused_and_what_was_here_stays() {
    let case = Case::new(300_000);
    fs::write(case.place(), "mine").expect("writes");
    let other = bytes(300_000, 2);
    let found = sha256(&other);
    let server = Server::new(move |request, _, stream| serve(stream, request, &other, "a", ALL));
    let (result, _) = case.fetch(&server.url("/file.bin"));
    refused(result, &[&case.hash, &found, "expected SHA-256", "untouched"]);
    assert_eq!(fs::read(case.place()).expect("stays"), b"mine");
    assert_eq!(names(case.dir.path()), ["file.bin"]);
    assert_eq!(server.asked().len(), 1, "it is not fetched again and again");
}

#[test]
fn a_right_file_sets_aside_what_was_here() {
    let case = Case::new(1000);
    let file = case.file.clone();
    let server = Server::new(move |request, _, stream| serve(stream, request, &file, "a", ALL));
    for number in ["", "-2"] {
        fs::write(case.place(), "mine").expect("writes");
        let (result, _) = case.fetch(&server.url("/file.bin"));
        let aside = result.expect("fetches").expect("set aside");
        assert_eq!(aside, case.dir.path().join(format!("file.bin.replaced{number}")));
        assert_eq!(fs::read(aside).expect("stays"), b"mine");
        assert_eq!(fs::read(case.place()).expect("new"), case.file);
    }
}

#[test]
fn a_length_that_is_not_the_files_is_refused_before_anything_is_lost() {
    for length in [299_999, 300_001, 12] {
        let case = Case::new(300_000);
        fs::write(case.partial(), &case.file[..1000]).expect("writes");
        fs::write(case.dir.path().join("file.bin.partial.version"), "\"a\"").expect("writes");
        let server = Server::new(move |_, _, stream| {
            send(stream, "200 OK", &[&format!("Content-Length: {length}"), "ETag: \"b\""], &bytes(length, 3));
        });
        let (result, _) = case.fetch(&server.url("/file.bin"));
        refused(result, &["expected 300000 bytes", &format!("announces {length} bytes"), "--from"]);
        assert_eq!(fs::metadata(case.partial()).expect("kept").len(), 1000);
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn where_no_size_is_known_a_length_that_lies_short_is_a_wrong_hash() {
    let case = Case::new(300_000);
    let content = Content { size: Size::AtMost(1 << 20), ..case.content() };
    let file = case.file.clone();
    let server = Server::new(move |_, _, stream| send(stream, "200 OK", &["Content-Length: 299999"], &file));
    let (result, _) = case.fetch_as(&server.url("/file.bin"), &content);
    refused(result, &["expected SHA-256", &sha256(&case.file[..299_999])]);
    assert_eq!(names(case.dir.path()), [""; 0]);
}

#[test]
fn where_no_size_is_known_a_length_that_lies_long_is_asked_about() {
    let case = Case::new(300_000);
    let content = Content { size: Size::AtMost(1 << 20), ..case.content() };
    let file = case.file.clone();
    let server = Server::new(move |request, number, stream| match number {
        0 => send(stream, "200 OK", &["Content-Length: 300009", "ETag: \"a\""], &file),
        _ => serve(stream, request, &file, "a", ALL),
    });
    let (result, _) = case.fetch_as(&server.url("/file.bin"), &content);
    result.expect("the server says that it is all there is, and the hash agrees");
    case.is_there();
    assert_eq!(server.ranges(), [None, Some(300_000)]);
}

#[test]
fn a_server_that_never_stops_is_stopped() {
    let case = Case::new(1000);
    for size in [Size::Exactly(1000), Size::AtMost(5000)] {
        let server = Server::new(|_, _, stream| send(stream, "200 OK", &[], &bytes(1 << 20, 3)));
        let (result, _) = case.fetch_as(&server.url("/file.bin"), &Content { size, ..case.content() });
        refused(result, &["sends more", &size.to_string()]);
        assert_eq!(names(case.dir.path()), [""; 0], "nothing of it is kept");
    }
}

#[test]
fn what_is_not_there_is_not_asked_for_again() {
    let case = Case::new(1000);
    for (status, help) in [("404 Not Found", "moved"), ("403 Forbidden", "login"), ("418 Teapot", "--from")] {
        let server = Server::new(move |_, _, stream| send(stream, status, &["Content-Length: 4"], b"oops"));
        let (result, _) = case.fetch(&server.url("/file.bin"));
        refused(result, &[&status[..3], help, &server.address]);
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn a_server_in_trouble_is_asked_again_but_not_for_ever() {
    let case = Case::new(1000);
    let file = case.file.clone();
    let server = Server::new(move |request, number, stream| match number {
        0 => send(stream, "500 Internal Server Error", &["Content-Length: 0"], b""),
        1 => send(stream, "429 Too Many Requests", &["Content-Length: 0"], b""),
        _ => serve(stream, request, &file, "a", ALL),
    });
    let (result, _) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    let server = Server::new(|_, _, stream| send(stream, "503 Service Unavailable", &["Content-Length: 0"], b""));
    let (result, _) = case.fetch(&server.url("/file.bin"));
    refused(result, &["503", "tried 4 times"]);
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn redirects_are_followed_with_the_range_and_not_in_circles() {
    let case = Case::new(300_000);
    let file = case.file.clone();
    let server = Server::new(move |request, number, stream| match request.path.as_str() {
        "/cdn/file.bin" => serve(stream, request, &file, "a", if number < 2 { 100_000 } else { ALL }),
        "/circle" => send(stream, "302 Found", &["Location: /circle", "Content-Length: 0"], b""),
        _ => send(stream, "302 Found", &["Location: /cdn/file.bin", "Content-Length: 0"], b""),
    });
    let (result, _) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    let asked: Vec<_> = server.asked().into_iter().filter(|r| r.path == "/cdn/file.bin").map(|r| r.from).collect();
    assert_eq!(asked, [None, Some(100_000)]);
    let (result, _) = case.fetch(&server.url("/circle"));
    refused(result, &["redirect"]);
}

#[test]
fn a_server_that_falls_silent_is_left_and_asked_for_the_rest() {
    let case = Case::new(300_000);
    let file = case.file.clone();
    let server = Server::new(move |request, number, stream| {
        serve(stream, request, &file, "a", if number == 0 { 100_000 } else { ALL });
        if number == 0 {
            sleep(Duration::from_secs(2));
        }
    });
    let started = Instant::now();
    let (result, told) = case.fetch(&server.url("/file.bin"));
    result.expect("fetches");
    case.is_there();
    assert_eq!(server.ranges(), [None, Some(100_000)]);
    let silent = |e: &Event| matches!(e, Event::Pauses { why, .. } if why.contains("silent"));
    assert!(told.iter().any(silent), "{told:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn nobody_there_is_said_after_a_few_tries() {
    let case = Case::new(1000);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let (result, told) = case.fetch(&format!("http://{free}/file.bin"));
    refused(result, &["no answer", "tried 4 times", "on a network"]);
    assert_eq!(names(case.dir.path()), [""; 0]);
    assert_eq!(told.iter().filter(|e| matches!(e, Event::Pauses { .. })).count(), 3);
}

#[test]
fn an_address_that_is_none_is_said() {
    let case = Case::new(1000);
    for address in ["file.bin", "http://", "ftp://host/file", "/data/file"] {
        let (result, told) = case.fetch(address);
        refused(result, &[address, "http"]);
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn two_commands_do_not_write_one_file() {
    let case = Case::new(1000);
    let other = fs::File::create(case.partial()).expect("creates");
    other.lock().expect("locks");
    let (result, _) = case.fetch("http://127.0.0.1:9/file.bin");
    refused(result, &["another command", "file.bin.partial"]);
}
