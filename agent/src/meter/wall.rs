//! A meter at the wall: a plug or a power strip that tells watts in a file or over HTTP.
//!
//! It is asked on a thread of its own, because answers take their time. A reading belongs to the middle between question
//! and answer, and half of what that took is recorded beside it as its skew.

use std::fmt;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use fleet_common::telemetry::{MonoNanos, Series};

use super::{Meter, Reading, Remarks};
use crate::clock;

/// How often it is asked. Plugs update about once a second.
const EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer belongs to no moment.
const PATIENCE: Duration = Duration::from_secs(3);
/// A household's fuse blows long before.
const MOST_WATTS: f64 = 50_000.0;
/// More than any plug has to say.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Where a wall meter tells its power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WallSource {
    place: Place,
    /// Where in a JSON document the watts are (RFC 6901); a plain number otherwise.
    pointer: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(std::path::PathBuf),
    Http(String),
}

/// Why a wall meter has no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WallError {
    /// It cannot be asked.
    #[error("{place} does not answer: {why}")]
    Silent {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
    /// What it says is no power.
    #[error(
        "{place} says {found}; expected watts as a plain number, or as JSON with #/where/they/are behind the address"
    )]
    NoPower {
        /// Where.
        place: String,
        /// What it says.
        found: String,
    },
}

impl FromStr for WallSource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (place, pointer) = match text.split_once('#') {
            Some((place, pointer)) if pointer.starts_with('/') => (place, Some(pointer.to_owned())),
            Some((_, pointer)) => {
                return Err(format!("expected a path such as #/apower behind the address, found #{pointer}"));
            }
            None => (text, None),
        };
        let place = match place {
            "" => return Err("expected a file or an http:// address".to_owned()),
            url if url.starts_with("http://") || url.starts_with("https://") => Place::Http(url.to_owned()),
            other if other.contains("://") => {
                return Err(format!("expected a file or an http:// address, found {other}"));
            }
            file => Place::File(file.into()),
        };
        Ok(Self { place, pointer })
    }
}

impl fmt::Display for WallSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path) => write!(f, "{}", path.display())?,
            // What stands between // and @ is a password.
            Place::Http(url) => match (url.split_once("://"), url.split_once('@')) {
                (Some((scheme, _)), Some((_, rest))) => write!(f, "{scheme}://…@{rest}")?,
                _ => f.write_str(url)?,
            },
        }
        self.pointer.as_ref().map_or(Ok(()), |pointer| write!(f, "#{pointer}"))
    }
}

impl WallSource {
    /// Asks it once: watts.
    ///
    /// # Errors
    /// It does not answer, or not with a power.
    pub fn watts(&self) -> Result<f64, WallError> {
        let silent = |why: String| WallError::Silent { place: self.to_string(), why };
        let text = match &self.place {
            Place::File(path) => std::fs::read_to_string(path).map_err(|e| silent(e.to_string()))?,
            Place::Http(url) => {
                let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
                let mut answer = agent.get(url).call().map_err(|e| silent(e.to_string()))?;
                let body = answer.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string();
                body.map_err(|e| silent(e.to_string()))?
            }
        };
        self.parse(&text)
    }

    fn parse(&self, text: &str) -> Result<f64, WallError> {
        let no_power = |found: String| WallError::NoPower { place: self.to_string(), found };
        let brief = || format!("\"{}\"", text.trim().chars().take(60).collect::<String>());
        let watts = match &self.pointer {
            None => text.trim().parse::<f64>().ok(),
            Some(pointer) => {
                let document: serde_json::Value = serde_json::from_str(text).map_err(|_| no_power(brief()))?;
                let found = document.pointer(pointer).ok_or_else(|| no_power(format!("nothing at {pointer}")))?;
                found.as_f64().or_else(|| found.as_str()?.trim().parse().ok())
            }
        };
        match watts {
            Some(watts) if watts.is_finite() && (0.0..=MOST_WATTS).contains(&watts) => Ok(watts),
            Some(watts) => Err(no_power(format!("{watts} W, which is no machine's power"))),
            None => Err(no_power(brief())),
        }
    }
}

/// The meter, asked once a second from when it is first read until it is dropped.
pub struct WallMeter {
    source: WallSource,
    answers: Option<Answers>,
    remarks: Remarks,
}

/// The middle between question and answer, half of what lay between, and the watts.
type Answers = Receiver<(MonoNanos, Duration, Result<f64, WallError>)>;

impl WallMeter {
    /// A meter that nobody has asked yet.
    pub fn new(source: WallSource) -> Self {
        Self { source, answers: None, remarks: Remarks::default() }
    }

    /// Begins to ask.
    fn ask(&self) -> Answers {
        let (sender, answers) = channel();
        let asked = self.source.clone();
        std::thread::spawn(move || {
            loop {
                let begun = clock::monotonic();
                let answer = asked.watts();
                let took = Duration::from_nanos(clock::monotonic().0 - begun.0);
                let middle = MonoNanos(begun.0 + took.as_nanos() as u64 / 2);
                if sender.send((middle, took / 2, answer)).is_err() {
                    return;
                }
                std::thread::sleep(EVERY.saturating_sub(took));
            }
        });
        answers
    }
}

impl Meter for WallMeter {
    fn name(&self) -> String {
        format!("wall meter {}", self.source)
    }

    fn read(&mut self, _now: MonoNanos) -> Vec<Reading> {
        if self.answers.is_none() {
            self.answers = Some(self.ask());
        }
        let Some(answers) = &self.answers else { return Vec::new() };
        let mut readings = Vec::new();
        loop {
            match answers.try_recv() {
                Ok((at, skew, Ok(watts))) => {
                    let mut push = |series: Series, value| readings.push(Reading { at, channel: series.into(), value });
                    push(Series::WallPowerMilliwatts, (watts * 1e3).round() as i64);
                    push(Series::WallSkewMicroseconds, skew.as_micros() as i64);
                }
                Ok((_, _, Err(error))) => self.remarks.make(format!("wall meter: {error}")),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return readings,
            }
        }
    }

    fn remarks(&mut self) -> Vec<String> {
        self.remarks.take()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn source(text: &str) -> WallSource {
        text.parse().expect("a source")
    }

    #[test]
    fn files_and_json_are_understood_and_nonsense_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("watts");
        let plain = source(&file.display().to_string());
        let pointed = source(&format!("{}#/meters/0/power", file.display()));
        let says = |text: &str, source: &WallSource| {
            std::fs::write(&file, text).expect("writes");
            source.watts().map_err(|e| e.to_string())
        };
        assert_eq!(says("153.5\n", &plain), Ok(153.5));
        assert_eq!(says(r#"{"meters":[{"power":87.25}]}"#, &pointed), Ok(87.25));
        assert_eq!(says(r#"{"meters":[{"power":"88"}]}"#, &pointed), Ok(88.0));
        for nonsense in ["NaN", "inf", "-3", "1e9", "warm", ""] {
            assert!(says(nonsense, &plain).expect_err(nonsense).contains("says"), "{nonsense}");
        }
        assert!(says("{}", &pointed).expect_err("not there").contains("nothing at /meters/0/power"));
        assert!(source("/nowhere/watts").watts().expect_err("no file").to_string().contains("does not answer"));
        for wrong in ["", "ftp://x", "http://x#power"] {
            assert!(wrong.parse::<WallSource>().is_err(), "{wrong}");
        }
        assert_eq!(source("http://me:secret@plug/rpc#/apower").to_string(), "http://…@plug/rpc#/apower");
    }

    #[test]
    fn a_plug_is_asked_over_http_and_the_skew_is_what_asking_took() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                std::thread::sleep(Duration::from_millis(40));
                let body = r#"{"apower":212.0}"#;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        let mut meter = WallMeter::new(source(&format!("http://{address}/rpc#/apower")));
        let (before, mut readings) = (clock::monotonic(), Vec::new());
        while readings.is_empty() && clock::monotonic().seconds_since(before) < 10.0 {
            readings = meter.read(clock::monotonic());
            std::thread::sleep(Duration::from_millis(5));
        }
        let [power, skew] = &readings[..] else { panic!("{readings:?} {:?}", meter.remarks()) };
        assert_eq!((power.channel.series, power.value), (Series::WallPowerMilliwatts, 212_000));
        assert!(skew.value >= 20_000, "half of 40 ms at least: {skew:?}");
    }
}
