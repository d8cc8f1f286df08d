//! What is kept and what may go: a decision without a clock or a disk.

use std::fmt;
use std::str::FromStr;

use fleet_common::units::Bytes;

/// An attempt that ended may still be getting samples from an agent that was cut off. Nobody has written to its file
/// for so long before it may go, milliseconds.
const QUIET_MS: u64 = 10 * 60 * 1000;

/// What is kept. By default everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// How long an ended attempt's samples are kept after the last of them.
    pub time: KeepTime,
    /// Bytes that all chunk files may take together.
    pub space: Option<Bytes>,
}

/// A time for which something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepTime {
    /// It has no end.
    #[default]
    Forever,
    /// Hours.
    Hours(u32),
}

impl FromStr for KeepTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hours = |digits: &str, each: u32| digits.parse::<u32>().ok().filter(|n| *n > 0)?.checked_mul(each);
        match text.split_at_checked(text.len().saturating_sub(1)) {
            _ if text == "forever" => Some(Self::Forever),
            Some((digits, "d")) => hours(digits, 24).map(Self::Hours),
            Some((digits, "h")) => hours(digits, 1).map(Self::Hours),
            _ => None,
        }
        .ok_or_else(|| {
            format!("expected days such as \"90d\", hours such as \"36h\", or \"forever\", found \"{text}\"")
        })
    }
}

impl fmt::Display for KeepTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::Hours(n) if n % 24 == 0 => write!(f, "{}d", n / 24),
            Self::Hours(n) => write!(f, "{n}h"),
        }
    }
}

/// A chunk file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    /// When it was last written to, milliseconds since 1970. First, because the oldest go first.
    pub written_unix_ms: u64,
    /// Its name without the extension, which no other attempt has.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its attempt runs, or has samples that are not in it yet.
    pub open: bool,
}

/// Which files go, and by which rule, oldest first. `now_unix_ms` is the time.
pub(super) fn leaving(mut held: Vec<Held>, keep: &Keep, now_unix_ms: u64) -> Vec<(Held, String)> {
    held.sort();
    let mut taken: u64 = held.iter().map(|file| file.bytes).sum();
    let age = |file: &Held| now_unix_ms.saturating_sub(file.written_unix_ms);
    let mut leaving = Vec::new();
    for file in held.into_iter().filter(|file| !file.open && age(file) >= QUIET_MS) {
        let rule = match (keep.time, keep.space) {
            (KeepTime::Hours(n), _) if age(&file) > u64::from(n) * 3_600_000 => format!("--keep-samples {}", keep.time),
            (_, Some(space)) if taken > space.0 => format!("--samples-space {space}"),
            _ => continue,
        };
        taken -= file.bytes;
        leaving.push((file, rule));
    }
    leaving
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn file(name: &str, hours_old: u64, bytes: u64) -> Held {
        Held { written_unix_ms: (1000 - hours_old) * HOUR, name: name.to_owned(), bytes, open: false }
    }

    fn names(held: &[Held], keep: Keep) -> Vec<(String, String)> {
        let leaving = leaving(held.to_vec(), &keep, 1000 * HOUR);
        leaving.into_iter().map(|(file, rule)| (file.name, rule)).collect()
    }

    #[test]
    fn times_are_read_and_nonsense_is_refused() {
        for (text, time) in
            [("forever", KeepTime::Forever), ("90d", KeepTime::Hours(2160)), ("36h", KeepTime::Hours(36))]
        {
            assert_eq!((text.parse(), time.to_string()), (Ok(time), text.to_owned()));
        }
        for text in ["", "d", "0d", "-1d", "90", "90 days", "9999999999h", "200000000d", "1µ"] {
            let message = text.parse::<KeepTime>().expect_err(text);
            assert!(message.contains("expected days such as") && message.contains(text), "{message}");
        }
    }

    #[test]
    fn the_old_go_then_the_oldest_until_the_rest_has_room_and_never_what_is_open() {
        let mut held =
            vec![file("c", 30, 10), file("a", 50, 10), file("b", 40, 10), file("d", 2, 10), file("e", 0, 10)];
        assert_eq!(names(&held, Keep::default()), []);
        let space = |bytes| Some(Bytes(bytes));
        let old = |name: &str| (name.to_owned(), "--keep-samples 35h".to_owned());
        let time = KeepTime::Hours(35);
        assert_eq!(names(&held, Keep { time, space: None }), [old("a"), old("b")]);
        let large = |name: &str| (name.to_owned(), "--samples-space 25 B".to_owned());
        assert_eq!(names(&held, Keep { time, space: space(25) }), [old("a"), old("b"), large("c")]);
        held[1].open = true;
        assert_eq!(names(&held, Keep { time, space: space(25) }), [old("b"), large("c"), large("d")]);
        let nothing = Keep { space: space(0), ..Keep::default() };
        let left: Vec<String> = names(&held, nothing).into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["b", "c", "d"], "what was written to a moment ago stays as well");
    }

    proptest! {
        #[test]
        fn no_more_goes_than_must(
            files in prop::collection::vec((0u64..100, 0u64..50, any::<bool>()), 0..20),
            hours in 1u32..100,
            space in 0u64..600,
        ) {
            let held: Vec<Held> = files
                .iter()
                .enumerate()
                .map(|(i, (age, bytes, open))| Held { open: *open, ..file(&format!("{i:02}"), *age, *bytes) })
                .collect();
            let keep = Keep { time: KeepTime::Hours(hours), space: Some(Bytes(space)) };
            let gone = leaving(held.clone(), &keep, 1000 * HOUR);
            prop_assert!(gone.iter().all(|(file, _)| !file.open && file.written_unix_ms < 1000 * HOUR));
            prop_assert!(gone.is_sorted());
            let kept: Vec<&Held> = held.iter().filter(|h| gone.iter().all(|(g, _)| g.name != h.name)).collect();
            let taken: u64 = kept.iter().map(|h| h.bytes).sum();
            let may_go = |h: &&&Held| !h.open && h.written_unix_ms < 1000 * HOUR;
            let oldest = kept.iter().filter(may_go).min();
            // All that could go went, or the rest fits and is young enough.
            if let Some(oldest) = oldest {
                prop_assert!(taken <= space && oldest.written_unix_ms >= (1000 - u64::from(hours)) * HOUR);
            }
            // The last to go for space's sake had to.
            if let Some((last, rule)) = gone.last().filter(|(_, rule)| rule.contains("space")) {
                prop_assert!(taken + last.bytes > space, "{rule}");
            }
        }
    }
}
