//! Numbers as a reader needs them: as many digits as mean something, and always the same way.

use fleet_common::score::Summary;

/// Decimals that give `value` about `digits` significant digits; integers keep all of theirs.
pub fn decimals(value: f64, digits: i32) -> usize {
    if value == 0.0 || !value.is_finite() {
        return 0;
    }
    // 0.000123 with three digits has six decimals; nothing in a report is finer than that.
    let of = |v: f64| usize::try_from(digits - 1 - v.abs().log10().floor() as i32).unwrap_or(0).min(6);
    // 9.999 rounds to 10.0, which has a digit more before its point.
    let scale = 10f64.powi(of(value) as i32);
    let rounded = (value * scale).round() / scale;
    if rounded == 0.0 { of(value) } else { of(rounded) }
}

/// `value` with `decimals` digits after the point and commas between thousands.
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "not a number".to_owned();
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let is_zero = !text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    let sign = if value < 0.0 && !is_zero { "\u{2212}" } else { "" };
    format!("{sign}{}{fraction}", grouped(whole))
}

/// Commas between thousands, from five digits on: 1084, but 127,632.
fn grouped(digits: &str) -> String {
    if digits.len() < 5 {
        return digits.to_owned();
    }
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `value` with about `digits` significant digits.
pub fn significant(value: f64, digits: i32) -> String {
    fixed(value, decimals(value, digits))
}

/// A whole number with commas between thousands.
pub fn whole(n: u64) -> String {
    grouped(&n.to_string())
}

/// A spread beside a mean of so many decimals. A spread that rounds to nothing is not shown as nothing.
pub fn spread(deviation: f64, decimals: usize) -> String {
    let text = fixed(deviation, decimals);
    if deviation > 0.0 && !text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        return format!("<{}", fixed(10f64.powi(-(decimals as i32)), decimals));
    }
    text
}

/// Mean and, where there is one, spread, at about `digits` significant digits.
pub fn mean_and_spread(summary: &Summary, digits: i32) -> (String, Option<String>) {
    let decimals = decimals(summary.mean, digits);
    (fixed(summary.mean, decimals), summary.deviation.map(|d| spread(d, decimals)))
}

/// How many decimals an accuracy in percent deserves: none finer than one image.
pub fn accuracy_decimals(evaluated: u64) -> usize {
    if evaluated >= 10_000 { 2 } else { 1 }
}

/// A count with the prefix that suits it: 512, 85.4 k, 1.23 M.
pub fn count(n: u64) -> String {
    match n {
        0..=999 => n.to_string(),
        1_000..=999_499 => format!("{} k", significant(n as f64 / 1e3, 3)),
        1_000_000_000.. => format!("{} G", significant(n as f64 / 1e9, 3)),
        _ => format!("{} M", significant(n as f64 / 1e6, 3)),
    }
}

/// `part` of `of` in percent.
pub fn share(part: u64, of: u64) -> Option<String> {
    if of == 0 {
        return None;
    }
    Some(match 100.0 * part as f64 / of as f64 {
        p if part == of => format!("{p:.0} %"),
        p if p > 99.9 => ">99.9 %".to_owned(),
        p => format!("{} %", significant(p, 2)),
    })
}

/// A change by this share with its sign: "+0.4 %".
pub fn change(share: f64) -> String {
    let text = fixed(100.0 * share, 1);
    let sign = if text.starts_with(|c: char| c.is_ascii_digit()) && share > 0.0 { "+" } else { "" };
    format!("{sign}{text} %")
}

/// Numbers in rising order, consecutive ones as a range: "0–4, 7".
pub fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let words = runs.filter_map(|run| match (run.first()?, run.last()?) {
        (a, b) if a == b => Some(a.to_string()),
        (a, b) => Some(format!("{a}–{b}")),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Bytes in MiB, the unit of every memory figure in a report.
pub fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1u32 << 20)
}

/// "1 trial", "3 trials".
pub fn plural(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", whole(n), if n == 1 { "" } else { "s" })
}

/// "a", "a and b", "a, b and c".
pub fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Milliseconds since 1970 as a date and time in UTC.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days for days after 1970: years begin on 1 March, so a leap day comes last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", of_day / 3600, of_day % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_that_mean_something() {
        for (value, text) in [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (1.234, "1.23"),
            (9.999, "10.0"),
            (43.21, "43.2"),
            (412.4, "412"),
            (1084.2, "1084"),
            (127_632.4, "127,632"),
            (-3.25, "\u{2212}3.25"),
            (f64::NAN, "not a number"),
        ] {
            assert_eq!(significant(value, 3), text);
        }
        assert_eq!(fixed(-0.01, 1), "0.0", "no negative zero");
    }

    #[test]
    fn a_spread_is_never_rounded_to_nothing() {
        assert_eq!(spread(0.0, 1), "0.0");
        assert_eq!(spread(0.01, 1), "<0.1");
        assert_eq!(spread(0.3, 0), "<1");
        assert_eq!(spread(0.36, 1), "0.4");
    }

    #[test]
    fn counts_and_shares() {
        assert_eq!(
            [999, 1_536, 85_400, 999_999, 1_234_567, 22_050_664].map(count),
            ["999", "1.54 k", "85.4 k", "1.00 M", "1.23 M", "22.1 M"]
        );
        assert_eq!(share(5, 5).as_deref(), Some("100 %"));
        assert_eq!(share(9_999, 10_000).as_deref(), Some(">99.9 %"));
        assert_eq!(share(12, 1_000).as_deref(), Some("1.2 %"));
        assert_eq!(share(0, 0), None);
    }

    #[test]
    fn changes_have_a_sign_and_numbers_become_ranges() {
        assert_eq!([0.004, -0.0125, 0.0, -0.0001].map(change), ["+0.4 %", "\u{2212}1.2 %", "0.0 %", "0.0 %"]);
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn dates_by_hand() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_767_225_599_000), "2025-12-31 23:59 UTC");
        assert_eq!(utc(1_790_000_000_000), "2026-09-21 14:13 UTC");
    }
}
