//! A connection whose other side has said something.
//!
//! With TLS 1.3 a client's handshake is over before the server has looked at its certificate. Whoever begins to talk then
//! learns of a refusal as a broken connection, in whatever layer that meets. A server of HTTP/2 speaks first, so that
//! waiting for it costs nothing, and tells a refusal with its reason.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// A stream, and what was read of it already.
pub(crate) struct Answered<S> {
    stream: S,
    first: Vec<u8>,
    given: usize,
}

impl<S: AsyncRead + Unpin> Answered<S> {
    /// Waits until the other side says something.
    pub(super) async fn wait(mut stream: S) -> io::Result<Self> {
        let mut first = vec![0; 256];
        let came = stream.read(&mut first).await?;
        if came == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the coordinator closed the connection at once"));
        }
        first.truncate(came);
        Ok(Self { stream, first, given: 0 })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Answered<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = &this.first[this.given..];
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let now = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..now]);
        this.given += now;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Answered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_of_what_came_first() {
        let (mut there, here) = tokio::io::duplex(1024);
        there.write_all(&[7; 300]).await.expect("sent");
        let mut here = Answered::wait(here).await.expect("it says something");
        there.write_all(&[8; 10]).await.expect("sent");
        drop(there);
        let mut all = Vec::new();
        let mut piece = [0; 100];
        while let Ok(n @ 1..) = here.read(&mut piece).await {
            all.extend_from_slice(&piece[..n]);
        }
        assert_eq!(all, [vec![7; 300], vec![8; 10]].concat());
        let (there, here) = tokio::io::duplex(16);
        drop(there);
        assert!(Answered::wait(here).await.is_err());
    }
}
