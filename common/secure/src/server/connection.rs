//! One connection after its handshake: it ends when its certificate does, and when nothing is asked on it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::gate::Shared;
use super::{Peer, Refused};

/// How much a client of HTTP/2 says first: its preface, and a frame of settings.
const BEGINNING: usize = 24 + 9;

/// An encrypted connection to a peer.
pub struct Connection {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: Peer,
    pub(super) entry: Entry,
    /// Comes when the certificate is revoked.
    pub(super) revoked: oneshot::Receiver<()>,
    /// When the certificate ends, or the time for joining.
    pub(super) ends: Pin<Box<Sleep>>,
    /// Until HTTP/2 has begun: from there on, its own keep-alive notices silence.
    pub(super) silent: Option<Pin<Box<Sleep>>>,
    /// Bytes that came before that.
    pub(super) came: usize,
}

/// A place in the list of connections, given back when this is dropped.
pub(super) struct Entry {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.close(self.number);
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    /// Ready with an error once the connection has to end.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if Pin::new(&mut self.revoked).poll(context).is_ready() {
            return Poll::Ready(ended("the certificate was revoked"));
        }
        if let Some(silent) = &mut self.silent
            && silent.as_mut().poll(context).is_ready()
        {
            self.silent = None;
            self.entry.shared.refuse(Refused::SilentConnection, &self.peer, "nothing was asked on it");
            return Poll::Ready(ended("nothing was asked"));
        }
        ready!(self.ends.as_mut().poll(context));
        if self.peer.identity.is_some() {
            self.entry.shared.refuse(Refused::Expired, &self.peer, "its certificate has ended");
        }
        Poll::Ready(ended("its time is over"))
    }

    /// Says goodbye as TLS does, as far as that is possible at once.
    pub(super) async fn turn_away(mut self) {
        let goodbye = poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context));
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), goodbye).await;
    }
}

fn ended(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_end(context) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if this.silent.is_some() {
            this.came += buffer.filled().len() - before;
            if this.came >= BEGINNING {
                this.silent = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.poll_end(context) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Pin::new(&mut this.stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
