//! What may stand in a file that starts agents. Whatever is accepted here can be written in every format.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::Uri;

/// A type of text that is checked when it is read.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $is_right:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct $name(String);

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let is_right: fn(&str) -> bool = $is_right;
                if is_right(text) && !text.contains(char::is_control) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(format!(concat!("expected ", $expected, ", found \"{}\""), text.escape_debug()))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(
    /// A place on the machines that agents run on. Absolute, because nobody knows where they will be started.
    Place,
    "an absolute path such as /srv/data, without line breaks",
    |text| text.starts_with('/')
);
text!(
    /// Any words in one line.
    Words,
    "words in one line",
    |text| !text.trim().is_empty()
);
text!(
    /// A device's name; several are separated by commas.
    Device,
    "a device such as cpu or cuda:0",
    |text| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == ':')
);
text!(
    /// A tag; several are separated by commas.
    Tag,
    "a tag as key=value, without commas",
    |text| text.split_once('=').is_some_and(|(key, _)| !key.trim().is_empty()) && !text.contains(',')
);
text!(
    /// A name of Slurm's: a partition, an account.
    SlurmName,
    "letters, digits and any of . , _ - @ +",
    |text| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".,_-@+".contains(c))
);
text!(
    /// A Kubernetes namespace.
    Namespace,
    "a namespace: lower-case letters, digits and -, at most 63 of them",
    |text| {
        let fits = (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-');
        fits && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }
);
text!(
    /// A container image.
    Image,
    "an image such as registry.example/netscore-fleet-agent:0.1.0",
    |text| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c))
);

/// The coordinator's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(String);

impl Address {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only this machine reaches it.
    pub(super) fn is_loopback(&self) -> bool {
        let uri: Option<Uri> = self.0.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default().trim_matches(['[', ']']).to_owned();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Option<Uri> = text.parse().ok();
        let is_right =
            |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|h| !h.is_empty());
        match uri.filter(is_right) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(format!("expected the coordinator's address as http://HOST:PORT, found \"{text}\"")),
        }
    }
}

/// A time, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Time {
    written: String,
    time: Duration,
}

impl Time {
    pub(super) fn seconds(&self) -> u64 {
        self.time.as_secs()
    }

    /// As Slurm writes it: `D-HH:MM:SS`.
    pub(super) fn slurm(&self) -> String {
        let s = self.seconds();
        format!("{}-{:02}:{:02}:{:02}", s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60)
    }
}

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text).ok().filter(|t| t.as_secs() > 0) {
            Some(time) => Ok(Self { written: text.to_owned(), time }),
            None => Err(format!("expected a time of a second or more such as 90s, 10m or 1h 30m, found \"{text}\"")),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_break_out_of_a_line_or_a_list_is_refused() {
        for wrong in ["", "relative", "~/data", "/srv/data\nExecStartPre=rm", "/srv/\u{7}"] {
            assert!(wrong.parse::<Place>().is_err_and(|e| e.contains("an absolute path")), "{wrong}");
        }
        assert!("/srv/my data's \"best\" 100% \\ $HOME".parse::<Place>().is_ok());
        for wrong in ["", " ", "two\nlines", "nul\0"] {
            assert!(wrong.parse::<Words>().is_err(), "{wrong:?}");
        }
        for wrong in ["plain", "=value", "a=b,c=d"] {
            assert!(wrong.parse::<Tag>().is_err(), "{wrong}");
        }
        assert!("gpu,long".parse::<SlurmName>().is_ok() && "gpu --wrap=x".parse::<SlurmName>().is_err());
        assert!("lab-7".parse::<Namespace>().is_ok() && "Lab".parse::<Namespace>().is_err());
        assert!("cuda:0".parse::<Device>().is_ok() && "cuda:0,cuda:1".parse::<Device>().is_err());
        assert!("r.example:5000/a/b:1@sha256:ab".parse::<Image>().is_ok() && "a b".parse::<Image>().is_err());
    }

    #[test]
    fn addresses_have_a_scheme_and_a_host() {
        for right in ["http://10.0.0.5:7070", "https://coordinator.example", "http://[fe80::1]:7070"] {
            assert!(right.parse::<Address>().is_ok_and(|a| !a.is_loopback()), "{right}");
        }
        for loopback in ["http://127.0.0.1:7070", "http://localhost:1", "http://[::1]:7070"] {
            assert!(loopback.parse::<Address>().is_ok_and(|a| a.is_loopback()), "{loopback}");
        }
        for wrong in ["", "10.0.0.5:7070", "ftp://host", "http://", "http://a b"] {
            assert!(wrong.parse::<Address>().is_err_and(|e| e.contains("http://HOST:PORT")), "{wrong}");
        }
    }

    #[test]
    fn times_are_written_as_slurm_reads_them() {
        let slurm = |text: &str| text.parse::<Time>().expect("a time").slurm();
        assert_eq!(slurm("4h"), "0-04:00:00");
        assert_eq!(slurm("2d 30m"), "2-00:30:00");
        assert_eq!(slurm("90s"), "0-00:01:30");
        assert!("4".parse::<Time>().is_err() && "0s".parse::<Time>().is_err());
    }
}
