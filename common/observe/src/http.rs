//! `/metrics` and `/healthz`: plain HTTP, read only.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use tokio::net::TcpListener;

/// A program that can be looked at.
pub trait Observed: Send + Sync + 'static {
    /// Its metrics as text, or why there are none at this moment.
    fn metrics(&self) -> impl Future<Output = Result<String, String>> + Send;

    /// Whether it can do its work, or why not.
    fn health(&self) -> impl Future<Output = Result<(), String>> + Send;
}

/// The address that an option names.
///
/// # Errors
/// It names none; in words.
pub async fn resolve(option: &str, text: &str) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host(text).await;
    let found =
        found.map_err(|e| format!("{option}: expected HOST:PORT such as 127.0.0.1:7070, found \"{text}\" ({e})"));
    found?.next().ok_or_else(|| format!("{option}: \"{text}\" names no address; name one as HOST:PORT"))
}

/// Listens.
///
/// # Errors
/// Another program does already, or the system refuses; in words.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "port {} for metrics is in use by another program; stop that one, or choose another with --metrics \
             HOST:PORT",
            address.port()
        ),
        _ => format!("cannot listen on {address} for metrics: {e}"),
    })
}

/// Answers until the program ends.
pub async fn serve(listener: TcpListener, program: Arc<impl Observed>) {
    let router = Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(program);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics can no longer be read");
    }
}

async fn metrics<P: Observed>(State(program): State<Arc<P>>) -> Response {
    match program.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

async fn health<P: Observed>(State(program): State<Arc<P>>) -> Response {
    match program.health().await {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Program(Result<(), String>);

    impl Observed for Program {
        async fn metrics(&self) -> Result<String, String> {
            self.0.clone().map(|()| "up 1\n".to_owned())
        }

        async fn health(&self) -> Result<(), String> {
            self.0.clone()
        }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answers");
        answer
    }

    async fn start(program: Program) -> SocketAddr {
        let listener = listen(resolve("--metrics", "127.0.0.1:0").await.expect("an address")).await.expect("listens");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, Arc::new(program)));
        address
    }

    #[tokio::test]
    async fn two_pages_are_read_and_nothing_else() {
        let well = start(Program(Ok(()))).await;
        let page = ask(well, "GET /metrics").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("\r\n\r\nup 1\n"), "{page}");
        assert!(page.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{page}");
        assert!(ask(well, "GET /healthz").await.ends_with("\r\n\r\nok\n"));
        assert!(ask(well, "GET /").await.starts_with("HTTP/1.1 404"));
        assert!(ask(well, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        let ill = start(Program(Err("the disk is full".to_owned()))).await;
        for page in ["GET /metrics", "GET /healthz"] {
            let answer = ask(ill, page).await;
            assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("the disk is full\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_wrong_address_and_a_taken_port_say_what_to_do() {
        let taken = start(Program(Ok(()))).await;
        let error = listen(taken).await.expect_err("taken");
        assert!(error.contains(&taken.port().to_string()) && error.contains("--metrics"), "{error}");
        let error = resolve("--metrics", "9464").await.expect_err("no host");
        assert!(error.contains("HOST:PORT") && error.contains("\"9464\""), "{error}");
    }
}
