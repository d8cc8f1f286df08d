//! A server that speaks as much of S3 as `object_store` does, and misbehaves when told to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use sha2::{Digest as _, Sha256};

pub(crate) const KEY: &str = "stand-in-key";
pub(crate) const SECRET: &str = "stand-in-secret";

/// What to do wrong next.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Answer so many requests with 500.
    pub(crate) fail: u32,
    /// Break off so many bodies after so many bytes.
    pub(crate) cut: Option<(u32, usize)>,
    /// Let each request wait.
    pub(crate) slow: Duration,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    pub(crate) uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    pub(crate) faults: Faults,
    /// Method and query of what was asked.
    pub(crate) asked: Vec<String>,
}

/// The server, for as long as it lives.
pub(crate) struct S3 {
    pub(crate) address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    task: tokio::task::JoinHandle<()>,
}

impl S3 {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let inner: Arc<Mutex<Inner>> = Arc::default();
        let app = Router::new().fallback(answer).with_state(inner.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { address, inner, task }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics")
    }

    /// The address of a store in the bucket `bucket`.
    pub(crate) fn url(&self) -> String {
        format!("s3://bucket/some/prefix?endpoint=http://{}&region=lab-1", self.address)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn reply(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    Response::builder().status(status).body(body.into()).expect("an answer")
}

async fn answer(State(inner): State<Arc<Mutex<Inner>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20).await.unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let slow = {
        let mut inner = inner.lock().expect("nobody panics");
        inner.asked.push(format!("{} {query}", parts.method));
        inner.faults.slow
    };
    tokio::time::sleep(slow).await;
    let mut inner = inner.lock().expect("nobody panics");
    if inner.faults.fail > 0 {
        inner.faults.fail -= 1;
        return reply(StatusCode::INTERNAL_SERVER_ERROR, "<Error><Code>InternalError</Code></Error>");
    }
    if !is_signed(&parts.headers, &body) {
        return reply(StatusCode::FORBIDDEN, "<Error><Code>SignatureDoesNotMatch</Code></Error>");
    }
    let key = parts.uri.path().strip_prefix("/bucket").unwrap_or_default().trim_start_matches('/').to_owned();
    act(&mut inner, &parts.method, &key, &query, &parts.headers, body)
}

/// Signature Version 4 is there and the body is what was signed; the signature itself is `object_store`'s business.
fn is_signed(headers: &HeaderMap, body: &[u8]) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let hash: String = Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
    let authorization = text("authorization");
    authorization.starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY}/"))
        && authorization.contains("/lab-1/s3/aws4_request")
        && authorization.contains("Signature=")
        && !authorization.contains(SECRET)
        && text("x-amz-content-sha256") == hash
        && !text("x-amz-date").is_empty()
}

fn act(inner: &mut Inner, method: &Method, key: &str, query: &str, headers: &HeaderMap, body: Bytes) -> Response<Body> {
    let option = |name: &str| {
        query.split('&').find_map(|p| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (k == name).then(|| v.replace("%2F", "/"))
        })
    };
    match (method.as_str(), option("uploadId")) {
        ("POST", None) if option("uploads").is_some() => {
            let id = format!("upload-{}", inner.asked.len());
            inner.uploads.insert(id.clone(), BTreeMap::new());
            reply(
                StatusCode::OK,
                format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
            )
        }
        ("PUT", Some(id)) => {
            let number = option("partNumber").and_then(|n| n.parse().ok()).unwrap_or_default();
            let Some(upload) = inner.uploads.get_mut(&id) else { return reply(StatusCode::NOT_FOUND, "") };
            upload.insert(number, body.to_vec());
            Response::builder().header(header::ETAG, format!("\"{number}\"")).body(Body::empty()).expect("an answer")
        }
        ("POST", Some(id)) => {
            let Some(upload) = inner.uploads.remove(&id) else { return reply(StatusCode::NOT_FOUND, "") };
            // As S3 does: every part but the last has 5 MiB at least.
            let small = upload.values().rev().skip(1).any(|p| p.len() < 5 << 20);
            if small {
                return reply(StatusCode::BAD_REQUEST, "<Error><Code>EntityTooSmall</Code></Error>");
            }
            inner.objects.insert(key.to_owned(), upload.into_values().flatten().collect());
            let xml = "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>";
            reply(StatusCode::OK, xml)
        }
        ("DELETE", Some(id)) => {
            inner.uploads.remove(&id);
            reply(StatusCode::NO_CONTENT, "")
        }
        ("PUT", None) => {
            inner.objects.insert(key.to_owned(), body.to_vec());
            Response::builder().header(header::ETAG, "\"one\"").body(Body::empty()).expect("an answer")
        }
        ("DELETE", None) => {
            inner.objects.remove(key);
            reply(StatusCode::NO_CONTENT, "")
        }
        ("GET", None) if option("list-type").is_some() => list(inner, &option("prefix").unwrap_or_default()),
        ("GET" | "HEAD", None) => get(inner, method, key, headers),
        _ => reply(StatusCode::METHOD_NOT_ALLOWED, ""),
    }
}

fn list(inner: &Inner, prefix: &str) -> Response<Body> {
    let found = inner.objects.iter().filter(|(key, _)| key.starts_with(prefix));
    let entries: String = found
        .map(|(key, object)| {
            format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-01-02T03:04:05Z</LastModified>\
                 <ETag>\"e\"</ETag></Contents>",
                object.len()
            )
        })
        .collect();
    reply(StatusCode::OK, format!("<ListBucketResult>{entries}</ListBucketResult>"))
}

fn get(inner: &mut Inner, method: &Method, key: &str, headers: &HeaderMap) -> Response<Body> {
    let Some(object) = inner.objects.get(key).cloned() else {
        return reply(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>");
    };
    let range = headers.get(header::RANGE).and_then(|r| r.to_str().ok()).and_then(|r| r.strip_prefix("bytes="));
    let from = range.and_then(|r| r.split('-').next()?.parse::<usize>().ok()).unwrap_or(0);
    let last = range.and_then(|r| r.split('-').nth(1)?.parse::<usize>().ok()).unwrap_or(object.len().saturating_sub(1));
    if from > object.len() {
        return reply(StatusCode::RANGE_NOT_SATISFIABLE, "");
    }
    let bytes = object[from..(last + 1).min(object.len())].to_vec();
    let mut response = Response::builder()
        .header(header::ETAG, "\"e\"")
        .header(header::LAST_MODIFIED, "Fri, 02 Jan 2026 03:04:05 GMT")
        .header(header::CONTENT_LENGTH, bytes.len());
    if range.is_some() {
        let text = format!("bytes {from}-{}/{}", from + bytes.len().saturating_sub(1), object.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, text);
    }
    let cut = match &mut inner.faults.cut {
        Some((times, after)) if *times > 0 && method == Method::GET && *after < bytes.len() => {
            *times -= 1;
            Some(*after)
        }
        _ => None,
    };
    let body = match (method, cut) {
        (&Method::HEAD, _) => Body::empty(),
        (_, None) => bytes.into(),
        (_, Some(after)) => {
            let pieces = [Ok(Bytes::copy_from_slice(&bytes[..after])), Err(std::io::Error::other("cut off"))];
            Body::from_stream(futures_util::stream::iter(pieces))
        }
    };
    response.body(body).expect("an answer")
}
