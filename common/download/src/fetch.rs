//! The download: resumed, repeated, checked, and only then put in its place.
//!
//! ```text
//!             ┌── broken: pause, and again ──┐
//!             ▼                              │
//! NAME.partial ── what is missing of it ──► all here ── size, hashes ──► NAME
//!             ▲                                             │ wrong
//!             └── once from the start, if it was pieced ────┴─► thrown away, an error
//! ```

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::DownloadError;
use crate::content::Content;
pub use crate::http::Patience;
use crate::http::{Answer, Http, Trouble, interruption};
use crate::partial::Partial;

/// An answer that brought so much was no failure, even if it broke off: a bad line gets there in the end. And because
/// a file is a bounded number of these, so are the answers.
const GETS_ON: u64 = 1 << 20;

/// What happens, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// So much is here, of so much where that is known.
    Have {
        /// Bytes here.
        bytes: u64,
        /// Bytes in all.
        of: Option<u64>,
    },
    /// An earlier download is gone on with.
    GoesOn {
        /// Bytes that need not come again.
        bytes: u64,
    },
    /// What was here is of no use.
    StartsOver {
        /// Why.
        why: String,
    },
    /// It broke, and is tried again after a pause.
    Pauses {
        /// What happened.
        why: String,
        /// How long.
        pause: Duration,
    },
    /// All is here; it is compared with what it must be.
    Checks,
}

/// Fetches `url` to `place`, whose folder must be there. What is at `place` already is set aside once the new file is
/// known to be right, and its new name is returned.
///
/// # Errors
/// See [`DownloadError`]. What has come is kept for the next time, unless it is wrong.
pub fn fetch(
    url: &str,
    place: &Path,
    content: &Content<'_>,
    patience: &Patience,
    tell: &mut dyn FnMut(Event),
) -> Result<Option<PathBuf>, DownloadError> {
    let http = Http::new(patience);
    let mut partial = Partial::open(place)?;
    let mut again = false;
    loop {
        if let Err(error) = complete(&http, url, &mut partial, content, patience, tell) {
            if partial.len() == 0 {
                // Nothing to go on with; the error is what matters.
                let _ = partial.discard();
            }
            return Err(error);
        }
        tell(Event::Checks);
        let Err(wrong) = partial.compare(content)? else {
            return partial.finish(place);
        };
        if !partial.pieced() || again {
            partial.discard()?;
            return Err(DownloadError::Wrong { url: url.to_owned(), wrong });
        }
        // The parts may be of different files, which no server admits. All at once they are of one.
        again = true;
        tell(Event::StartsOver { why: format!("what came in parts is not the file ({wrong})") });
        partial.begin(None)?;
    }
}

/// Asks until all is here.
fn complete(
    http: &Http,
    url: &str,
    partial: &mut Partial,
    content: &Content<'_>,
    patience: &Patience,
    tell: &mut dyn FnMut(Event),
) -> Result<(), DownloadError> {
    let mut failures = 0;
    loop {
        let before = partial.len();
        let why = match more(http, url, partial, content, tell) {
            Ok(()) => return Ok(()),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(why)) => why,
        };
        failures = if partial.len() >= before.saturating_add(GETS_ON) { 1 } else { failures + 1 };
        if failures >= patience.tries {
            let kept = match partial.version() {
                Some(_) => format!("{} bytes are kept; the same command goes on later", partial.len()),
                None => "Is this machine on a network? Try again later, or name another address with --from".to_owned(),
            };
            return Err(DownloadError::Broken { url: url.to_owned(), reason: why, tries: failures, kept });
        }
        let pause = patience.pause.saturating_mul(1 << (failures - 1).min(16)).min(patience.longest_pause);
        tell(Event::Pauses { why, pause });
        std::thread::sleep(pause);
    }
}

/// Asks once for what is missing, and takes what comes.
fn more(
    http: &Http,
    url: &str,
    partial: &mut Partial,
    content: &Content<'_>,
    tell: &mut dyn FnMut(Event),
) -> Result<(), Trouble> {
    let have = partial.len();
    if have > 0 && content.size.known() == Some(have) {
        return Ok(());
    }
    let after = partial.version().filter(|_| have < content.size.most()).map(|version| (have, version));
    let fits = |total: Option<u64>| match total {
        Some(total) if !content.size.allows(total) => Err(DownloadError::Length {
            url: url.to_owned(),
            expected: content.size,
            said: format!("announces {total} bytes"),
        }),
        _ => Ok(total.or(content.size.known())),
    };
    // Nothing that is here is given up before the answer looks like the file.
    let (mut body, total) = match http.get(url, after)? {
        Answer::Whole { total, version, body } => {
            let total = fits(total)?;
            if after.is_some() {
                tell(Event::StartsOver { why: "the server has another version, or cannot go on in the middle".into() });
            }
            partial.begin(version)?;
            (body, total)
        }
        Answer::Rest { from, total, body } if from == have => {
            let total = fits(total)?;
            tell(Event::GoesOn { bytes: have });
            partial.go_on();
            (body, total)
        }
        Answer::Ends { total } if total == Some(have) => return Ok(()),
        Answer::Rest { .. } | Answer::Ends { .. } => {
            partial.begin(None)?;
            return Err(Trouble::Passing("the server has other bytes than those that were asked for".into()));
        }
    };
    take(url, &mut body, partial, content, total, tell)
}

/// Takes an answer's bytes.
fn take(
    url: &str,
    body: &mut impl Read,
    partial: &mut Partial,
    content: &Content<'_>,
    total: Option<u64>,
    tell: &mut dyn FnMut(Event),
) -> Result<(), Trouble> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        tell(Event::Have { bytes: partial.len(), of: total });
        let read = match body.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(Trouble::Passing(interruption(&e))),
        };
        if read == 0 {
            return match total {
                Some(total) if partial.len() < total => Err(Trouble::Passing("the connection broke".into())),
                _ => Ok(()),
            };
        }
        if partial.len() + read as u64 > content.size.most() {
            partial.begin(None)?;
            return Err(Trouble::Final(DownloadError::Length {
                url: url.to_owned(),
                expected: content.size,
                said: "sends more".into(),
            }));
        }
        partial.append(&buffer[..read])?;
    }
}
