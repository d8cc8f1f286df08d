//! In front of the services: who asks, whether that is allowed, and for how long.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fleet_secure::identity::Identity;
use fleet_secure::server::{Peer, Refused};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, Bytes};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::{Caller, Kind, Security, rule};

/// Lets through what the table allows. Where nothing is encrypted it lets everything through.
#[derive(Clone)]
pub struct Guard<S = ()> {
    inner: S,
    security: Option<Arc<Security>>,
}

impl Guard {
    /// A layer that asks `security`.
    pub fn new(security: Option<Arc<Security>>) -> Self {
        Self { inner: (), security }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, security: self.security.clone() }
    }
}

/// A request that may go on.
struct Admitted {
    peer: Peer,
    kind: Kind,
}

fn admit(security: &Security, request: &Request<Body>) -> Result<Admitted, Status> {
    let path = request.uri().path();
    // Fails closed: without a peer nobody has shaken hands.
    let Some(peer) = request.extensions().get::<Peer>() else {
        return Err(Status::internal("the connection does not say whose it is; this is a bug"));
    };
    let refuse = |refused, status: Status| {
        security.refuse(refused, peer, &format!("{}: {}", known(path), status.message()));
        Err(status)
    };
    let rule = rule(path);
    let Some(who) = &peer.identity else {
        return match rule {
            Some(rule) if rule.roles.is_none() => Ok(Admitted { peer: peer.clone(), kind: rule.kind }),
            _ => refuse(
                Refused::NoCertificate,
                Status::unauthenticated(
                    "this needs a certificate; get one with a token that `fleet join-token` prints: `fleet join TOKEN` \
                     for people, `fleet-agent join TOKEN` for machines",
                ),
            ),
        };
    };
    if let Err(refused) = security.gate().check(who) {
        return refuse(
            refused,
            Status::unauthenticated(format!("the certificate no longer counts ({})", refused.reason())),
        );
    }
    let Some(rule) = rule else { return Err(Status::unimplemented("there is no such method")) };
    if rule.roles.is_some_and(|roles| !roles.contains(&who.role)) {
        let may: Vec<&str> = rule.roles.unwrap_or_default().iter().map(|r| r.name()).collect();
        let text = format!("{who} may not do this ({}); it takes a certificate as {}", known(path), may.join(" or "));
        return refuse(Refused::NotPermitted, Status::permission_denied(text));
    }
    if !security.may_ask(who) {
        let text = format!("too many requests of {who}; ask more slowly");
        return refuse(Refused::RateLimited, Status::resource_exhausted(text));
    }
    Ok(Admitted { peer: peer.clone(), kind: rule.kind })
}

/// A path from the network, for the log.
fn known(path: &str) -> &str {
    if rule(path).is_some() { path.rsplit('/').next().unwrap_or_default() } else { "an unknown method" }
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(security) = self.security.clone() else { return Box::pin(self.inner.call(request)) };
        let Admitted { peer, kind } = match admit(&security, &request) {
            Ok(admitted) => admitted,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        if let Some(who) = &peer.identity {
            request.extensions_mut().insert(Caller::bearing(who.clone()));
        }
        let path = request.uri().path().to_owned();
        if kind == Kind::Stream {
            let watched = |body| Body::new(Watched::new(body, security.clone(), peer.clone()));
            request = request.map(watched);
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match kind {
                Kind::Stream => answer.await?,
                Kind::Single => match tokio::time::timeout(security.limits().request, answer).await {
                    Ok(answer) => answer?,
                    Err(_) => {
                        let status = Status::deadline_exceeded("the request did not arrive in time, or took too long");
                        security.refuse(
                            Refused::RequestTimeout,
                            &peer,
                            &format!("{}: {}", known(&path), status.message()),
                        );
                        return Ok(status.into_http());
                    }
                },
            };
            // What tonic says of a message beyond the limit.
            if Status::from_header_map(answer.headers()).is_some_and(|s| s.code() == Code::OutOfRange) {
                security.refuse(Refused::MessageTooLarge, &peer, known(&path));
            }
            Ok(answer)
        })
    }
}

/// A stream of messages whose sender must not fall silent, and whose certificate must count at each of them.
struct Watched {
    inner: Body,
    security: Arc<Security>,
    peer: Peer,
    silence: Duration,
    until: Pin<Box<Sleep>>,
}

impl Watched {
    fn new(inner: Body, security: Arc<Security>, peer: Peer) -> Self {
        let silence = security.limits().silence;
        Self { inner, security, peer, silence, until: Box::pin(tokio::time::sleep(silence)) }
    }

    fn counts(&self, who: &Identity) -> Result<(), Status> {
        self.security.gate().check(who).map_err(|refused| {
            self.security.refuse(refused, &self.peer, "in the middle of a stream");
            Status::unauthenticated(format!("the certificate no longer counts ({})", refused.reason()))
        })
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        match frame {
            Poll::Pending => match self.until.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    let silence = self.silence;
                    // Said once, though it may be asked again.
                    self.until.as_mut().reset(Instant::now() + Duration::from_secs(86_400));
                    self.security.refuse(Refused::SilentStream, &self.peer, "nothing came on a stream");
                    let text = format!("nothing came for {} s", silence.as_secs());
                    Poll::Ready(Some(Err(Status::deadline_exceeded(text))))
                }
            },
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(Err(status)) = self.peer.identity.as_ref().map(|who| self.counts(who)) {
                    return Poll::Ready(Some(Err(status)));
                }
                let next = Instant::now() + self.silence;
                self.until.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
