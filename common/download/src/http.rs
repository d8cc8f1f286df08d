//! One request and what its answer means.

use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body, BodyReader};

use crate::DownloadError;

/// What decides how long one waits.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection, with its encryption.
    pub connect: Duration,
    /// For the next bytes, wherever in the answer.
    pub silence: Duration,
    /// After the first failure; doubled after each that follows, up to [`Self::longest_pause`].
    pub pause: Duration,
    /// The longest of these pauses.
    pub longest_pause: Duration,
    /// So many failures in a row that brought nothing are the end.
    pub tries: u32,
    /// Whether the proxies that the environment names are used.
    pub proxies: bool,
}

impl Default for Patience {
    /// For people: gives up on a server that is not there after half a minute, and never on one that is slow.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            tries: 5,
            proxies: true,
        }
    }
}

/// What the server sends.
pub(crate) enum Answer {
    /// The file from its beginning, whatever was asked for.
    Whole { total: Option<u64>, version: Option<String>, body: BodyReader<'static> },
    /// What follows byte `from`.
    Rest { from: u64, total: Option<u64>, body: BodyReader<'static> },
    /// Nothing, because the file ends before what was asked for.
    Ends { total: Option<u64> },
}

/// Why there is no answer.
pub(crate) enum Trouble {
    /// It may go better the next time.
    Passing(String),
    /// It will not.
    Final(DownloadError),
}

impl From<DownloadError> for Trouble {
    fn from(error: DownloadError) -> Self {
        Self::Final(error)
    }
}

/// Asks for files.
pub(crate) struct Http {
    agent: Agent,
}

impl Http {
    pub(crate) fn new(patience: &Patience) -> Self {
        let mut config = Agent::config_builder()
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .http_status_as_error(false)
            .user_agent(concat!("netscore-fleet/", env!("CARGO_PKG_VERSION")))
            // The bytes of the file itself: its size and hash are known, those of a compressed form are not.
            .accept_encoding("identity");
        if !patience.proxies {
            config = config.proxy(None);
        }
        Self { agent: config.build().into() }
    }

    /// Asks for `url`, or for what follows the first bytes of a version of it.
    pub(crate) fn get(&self, url: &str, after: Option<(u64, &str)>) -> Result<Answer, Trouble> {
        let mut request = self.agent.get(url);
        if let Some((from, version)) = after {
            // A server whose file is another by now sends all of it instead.
            request = request.header(header::RANGE, format!("bytes={from}-")).header(header::IF_RANGE, version);
        }
        let response = request.call().map_err(|error| trouble(url, error))?;
        match response.status() {
            StatusCode::OK => Ok(Answer::Whole {
                total: response.body().content_length(),
                version: version(&response),
                body: response.into_body().into_reader(),
            }),
            StatusCode::PARTIAL_CONTENT if after.is_some() => {
                let Some((Some(from), total)) = content_range(&response) else {
                    return Err(Trouble::Passing("the server sent a part without saying which".into()));
                };
                Ok(Answer::Rest { from, total, body: response.into_body().into_reader() })
            }
            StatusCode::RANGE_NOT_SATISFIABLE if after.is_some() => {
                Ok(Answer::Ends { total: content_range(&response).and_then(|(_, total)| total) })
            }
            status => Err(refusal(url, status)),
        }
    }
}

/// What an answer's bytes can be known by: only what cannot be the same for two versions.
fn version(response: &Response<Body>) -> Option<String> {
    let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    text(header::ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(header::LAST_MODIFIED))
}

/// `bytes 5-9/10` → (5, 10); `bytes */10` → (none, 10).
fn content_range(response: &Response<Body>) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) =
        response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let from = range.split_once('-').and_then(|(from, _)| from.trim().parse().ok());
    Some((from, total.trim().parse().ok()))
}

fn refusal(url: &str, status: StatusCode) -> Trouble {
    let help = match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            return Trouble::Passing(format!("the server answered {status}"));
        }
        status if status.is_server_error() => return Trouble::Passing(format!("the server answered {status}")),
        StatusCode::NOT_FOUND | StatusCode::GONE => "It has moved: name its new address with --from",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            "Look at the address in a browser: it may ask for a login or refuse this network. --from names another"
        }
        _ => "Look at the address in a browser; --from names another",
    };
    Trouble::Final(DownloadError::Refused { url: url.to_owned(), status: status.to_string(), help })
}

fn trouble(url: &str, error: ureq::Error) -> Trouble {
    use ureq::Error as E;
    let url = || url.to_owned();
    match error {
        E::BadUri(message) => Trouble::Final(DownloadError::Address { url: url(), message }),
        E::Http(e) => Trouble::Final(DownloadError::Address { url: url(), message: e.to_string() }),
        E::HostNotFound => Trouble::Passing("its host is not found".into()),
        E::Timeout(_) => Trouble::Passing("no answer in time".into()),
        // What rustls says of a certificate comes as this.
        E::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => Trouble::Final(DownloadError::Unreachable {
            url: url(),
            reason: format!(
                "the connection is not safe ({e}). Is the clock right? A proxy that re-encrypts is not accepted: fetch \
                 elsewhere, or name a mirror in this network with --from"
            ),
        }),
        E::Io(e) => Trouble::Passing(format!("no answer ({e})")),
        E::ConnectionFailed | E::Protocol(_) => Trouble::Passing(error.to_string()),
        E::InvalidProxyUrl | E::ConnectProxyFailed(_) => Trouble::Final(DownloadError::Unreachable {
            url: url(),
            reason: format!("{error}. Look at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY in the environment"),
        }),
        _ => Trouble::Final(DownloadError::Unreachable { url: url(), reason: error.to_string() }),
    }
}

/// What happened to a connection, in words.
pub(crate) fn interruption(error: &std::io::Error) -> String {
    let timeout = error.get_ref().and_then(|e| e.downcast_ref()).is_some_and(|e| matches!(e, ureq::Error::Timeout(_)));
    match error.kind() {
        _ if timeout => "the server fell silent".to_owned(),
        std::io::ErrorKind::TimedOut => "the server fell silent".to_owned(),
        _ => format!("the connection broke ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_accepted_is_final_and_a_broken_connection_is_not() {
        let answer = |kind| trouble("https://host/file", std::io::Error::new(kind, "invalid peer certificate").into());
        let Trouble::Final(error) = answer(std::io::ErrorKind::InvalidData) else { panic!("tried again") };
        assert!(error.to_string().contains("https://host/file") && error.to_string().contains("--from"), "{error}");
        assert!(matches!(answer(std::io::ErrorKind::ConnectionReset), Trouble::Passing(_)));
    }
}
