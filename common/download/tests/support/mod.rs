//! A server that does what a test says, request by request.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fleet_common::canonical::hex;
use fleet_download::content::{Content, Size};
use fleet_download::fetch::Patience;
use sha2::{Digest, Sha256};

/// A request, as far as downloads differ by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    /// First byte that is asked for.
    pub from: Option<usize>,
    pub if_range: Option<String>,
}

/// A server on a port of its own, for as long as the test runs.
pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` gets each request, its number from 0, and the connection, which is closed afterwards.
    pub fn new(answer: impl Fn(&Request, usize, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let request = read(&stream);
                let number = {
                    let mut log = log.lock().expect("the log");
                    log.push(request.clone());
                    log.len() - 1
                };
                // One that takes its time does not keep the others waiting.
                let answer = answer.clone();
                thread::spawn(move || answer(&request, number, &mut stream));
            }
        });
        Self { address, asked }
    }

    /// The address of a file.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// What was asked for.
    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().expect("the log").clone()
    }

    /// The first bytes that were asked for, request by request.
    pub fn ranges(&self) -> Vec<Option<usize>> {
        self.asked().iter().map(|r| r.from).collect()
    }
}

fn read(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next().and_then(|l| l.split(' ').nth(1).map(str::to_owned)).unwrap_or_default();
    let mut request = Request { path, from: None, if_range: None };
    for line in lines.take_while(|l| !l.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.from = value.strip_prefix("bytes=").and_then(|v| v.trim_end_matches('-').parse().ok()),
            "if-range" => request.if_range = Some(value.to_owned()),
            _ => {}
        }
    }
    request
}

/// Sends an answer with these header lines, and as much of a body as the test wants.
pub fn send(stream: &mut TcpStream, status: &str, headers: &[&str], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for header in headers {
        head += header;
        head += "\r\n";
    }
    head += "\r\n";
    // The client may be gone already.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Serves `file` as a good server does, but at most `most` bytes of an answer before the connection breaks.
pub fn serve(stream: &mut TcpStream, request: &Request, file: &[u8], tag: &str, most: usize) {
    let tag = format!("ETag: \"{tag}\"");
    let same = request.if_range.as_ref().is_none_or(|wanted| tag.ends_with(wanted.as_str()));
    match request.from.filter(|_| same) {
        Some(from) if from >= file.len() => {
            let range = format!("Content-Range: bytes */{}", file.len());
            send(stream, "416 Range Not Satisfiable", &[&range, "Content-Length: 0"], b"");
        }
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}", file.len() - 1, file.len());
            let length = format!("Content-Length: {}", file.len() - from);
            let body = &file[from..];
            send(stream, "206 Partial Content", &[&range, &length, &tag], &body[..body.len().min(most)]);
        }
        None => {
            let length = format!("Content-Length: {}", file.len());
            send(stream, "200 OK", &[&length, &tag, "Accept-Ranges: bytes"], &file[..file.len().min(most)]);
        }
    }
}

/// Bytes that differ everywhere.
pub fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What a file of this size and hash must be.
pub fn content<'a>(file: &[u8], sha256: &'a str) -> Content<'a> {
    Content { size: Size::Exactly(file.len() as u64), sha256, md5: None }
}

/// Does not wait where people would want to.
pub fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(300),
        pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        tries: 4,
        proxies: false,
    }
}
