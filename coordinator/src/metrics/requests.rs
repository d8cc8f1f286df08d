//! How many requests there are, and how long their answers take.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::Counts;

/// What methods that are not ours are called: their names come from outside, and could be any number.
pub(super) const OTHER: &str = "other";

/// Counts and times what goes through.
#[derive(Debug, Clone)]
pub struct Timed<S = ()> {
    inner: S,
    counts: Arc<Counts>,
}

impl Timed {
    /// A layer that counts there.
    pub fn new(counts: Arc<Counts>) -> Self {
        Self { inner: (), counts }
    }
}

impl<S> Layer<S> for Timed {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner, counts: self.counts.clone() }
    }
}

impl<S, A, B> Service<Request<A>> for Timed<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let counts = self.counts.clone();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let asked = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // A refusal says so at once; otherwise the answer has begun well.
            let code = tonic::Status::from_header_map(answer.headers()).map_or(tonic::Code::Ok, |s| s.code());
            let method = if code == tonic::Code::Unimplemented { OTHER } else { &method };
            counts.answered_request(method, code, Some(asked.elapsed()));
            Ok(answer)
        })
    }
}
