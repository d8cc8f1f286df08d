//! Options of a coordinator that have to do with certificates and limits.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use fleet_secure::server::{Limits, Rate};

use super::Failure;
use crate::security::Office;

/// When connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Tls {
    /// Where `fleet certs init` has been run for the state folder.
    Auto,
    /// Always; an error without certificates.
    Always,
    /// Never.
    Never,
}

/// How a coordinator is secured.
#[derive(Debug, Args)]
pub(super) struct Secured {
    /// Encrypt connections and ask each machine for its certificate: auto (where `fleet certs init` was run), always or
    /// never
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", num_args = 0..=1, default_missing_value = "always")]
    tls: Tls,
    /// How long certificates last; agents renew theirs after two thirds of it
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = seconds)]
    certificate_validity: u64,
    #[command(flatten)]
    bounds: Bounds,
}

/// Where limits stand in the help.
const LIMITS: &str = "Limits of encrypted connections";

/// What connections may take, where they are encrypted.
#[derive(Debug, Args)]
struct Bounds {
    /// Connections in all
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, help_heading = LIMITS, hide_short_help = true)]
    max_connections: usize,
    /// Connections of one agent or person
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_peer, help_heading = LIMITS, hide_short_help = true)]
    max_connections_per_peer: u32,
    /// Requests of one agent or person per second, and ten times that at once
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..), help_heading = LIMITS, hide_short_help = true)]
    max_requests: u32,
    /// Time for a handshake
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds, help_heading = LIMITS, hide_short_help = true)]
    handshake_time: u64,
    /// Time for a request that is one message
    #[arg(long, value_name = "TIME", default_value = "75s", value_parser = seconds, help_heading = LIMITS, hide_short_help = true)]
    request_time: u64,
    /// Silence after which a stream of messages is ended
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = seconds, help_heading = LIMITS, hide_short_help = true)]
    stream_silence: u64,
}

impl Secured {
    /// How long certificates last and what connections may take; `None`: nothing is encrypted.
    pub(super) fn terms(&self, state: &Path) -> Result<Option<(u64, Limits)>, Failure> {
        let there = Office::is_in(state);
        match self.tls {
            Tls::Never => return Ok(None),
            Tls::Auto if !there => return Ok(None),
            Tls::Always if !there => {
                return Err(Failure::usage(format!(
                    "{} has no certificates yet; make them with: fleet certs init --state {}",
                    state.display(),
                    state.display()
                )));
            }
            Tls::Auto | Tls::Always => {}
        }
        let bounds = &self.bounds;
        let per_second = f64::from(bounds.max_requests);
        Ok(Some((
            self.certificate_validity,
            Limits {
                handshake: Duration::from_secs(bounds.handshake_time),
                connections: bounds.max_connections,
                connections_per_peer: bounds.max_connections_per_peer,
                request: Duration::from_secs(bounds.request_time),
                silence: Duration::from_secs(bounds.stream_silence),
                requests: Rate { per_second, burst: per_second * 10.0 },
                ..Limits::default()
            },
        )))
    }
}

/// Seconds of "90s", "10m", "1h", "30d".
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a time such as 90s, 10m, 1h or 30d, found \"{text}\"");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number = text[..text.len() - 1].parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
    number
        .checked_mul(each)
        .filter(|s| *s <= 10 * 365 * 24 * 3600)
        .ok_or_else(|| format!("\"{text}\" is longer than ten years"))
}

/// A time for people: the largest two units.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds % 86_400 / 3600, seconds % 3600 / 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min"),
        (0, h, 0) => format!("{h} h"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, 0, _) => format!("{d} d"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, wanted) in [("90s", 90), ("10m", 600), ("1h", 3600), ("30d", 2_592_000)] {
            assert_eq!(seconds(text), Ok(wanted));
        }
        for wrong in ["", "d", "0s", "-1h", "1w", "1.5h", "99999d", "é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!([30, 600, 3600, 5400, 90_000].map(duration), ["30 s", "10 min", "1 h", "1 h 30 min", "1 d 1 h"]);
    }
}
