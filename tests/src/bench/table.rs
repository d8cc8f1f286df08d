//! The comparison as Markdown.

use std::fmt::Write as _;

use super::compare::median;
use super::{Compared, Machine};

const HEADER: &str = "\
| backbone | batch | method | checkpointing | ours s | Python s | ours / Python (min–max) | ours MiB (tensors) | Python MiB (glibc keeps) | missed |
|---|---|---|---|---|---|---|---|---|---|
";

/// A row of the table.
pub fn line(compared: &Compared) -> String {
    let Compared { row, seconds, .. } = compared;
    let ratios = compared.ratios();
    let (least, most) = ratios.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &r| (a.min(r), b.max(r)));
    let of = |side: fn(&(f64, f64)) -> f64| median(&seconds.iter().map(side).collect::<Vec<_>>());
    let mib = |bytes: u64| (bytes as f64 / f64::from(1 << 20)).round();
    let missed = compared.missed();
    let scan = if row.scans() { format!("; {} scan", row.scan.name()) } else { String::new() };
    format!(
        "| {} | {} | {} | {}{scan} | {:.2} | {:.2} | **{:.2}** ({least:.2}–{most:.2}) | **{}** ({}) | **{}** ({}) | {} |",
        row.backbone.name(),
        row.batch,
        row.method.name(),
        row.checkpointing.name(),
        of(|s| s.0),
        of(|s| s.1),
        median(&ratios),
        mib(compared.resident_peak),
        mib(compared.live_peak),
        mib(compared.python_returned),
        mib(compared.python_kept),
        if missed.is_empty() { "–".to_owned() } else { missed.join(", ") },
    )
}

/// The whole page: when, where, how, and what.
pub fn page(rows: &[Compared], machine: &Machine, load: f64, rounds: u32, command: &str, date: &str) -> String {
    let mut page = format!(
        "# A training step beside Python's\n\n\
         Written by `{command}` on {date}. How it is measured is in [README.md](README.md).\n\n"
    );
    let _ = writeln!(page, "- Machine: {machine}; load before the first row: {load:.1}");
    if let Some(row) = rows.first() {
        let versions: Vec<String> = row.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let _ = writeln!(page, "- Python's side: {}", versions.join(", "));
    }
    let missed = rows.iter().filter(|row| !row.missed().is_empty()).count();
    let _ = writeln!(page, "- {} rows in {rounds} rounds each, {missed} missed\n", rows.len());
    page.push_str(HEADER);
    for row in rows {
        page.push_str(&line(row));
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Row;

    fn compared(ours: f64) -> Compared {
        Compared {
            row: Row::parse("vit_small:8:lora:none").expect("a row"),
            seconds: vec![(ours, 1.0), (0.5, 1.0), (ours + 1.0, 1.0)],
            live_peak: 300 << 20,
            resident_peak: 320 << 20,
            python_returned: 355 << 20,
            python_kept: 870 << 20,
            versions: [("torch".to_owned(), "2.11.0".to_owned())].into(),
        }
    }

    #[test]
    fn a_row_shows_the_median_of_the_ratios_and_what_was_missed() {
        assert_eq!(
            line(&compared(0.9)),
            "| vit_small_patch16_224 | 8 | lora | none | 0.90 | 1.00 | **0.90** (0.50–1.90) | **320** (300) | **355** \
             (870) | – |"
        );
        assert!(line(&compared(1.1)).ends_with("| time |"), "{}", line(&compared(1.1)));
    }

    #[test]
    fn the_page_has_every_row_and_counts_those_missed() {
        let machine =
            Machine { cpu: "a CPU".to_owned(), cores: 2, memory: 8 << 30, kernel: "6.1".to_owned(), threads: 2 };
        let page = page(&[compared(0.9), compared(1.1)], &machine, 0.25, 3, "make bench", "2026-01-02");
        assert!(page.contains("- 2 rows in 3 rounds each, 1 missed"), "{page}");
        assert!(
            page.contains(
                "a CPU, 2 cores, 8.0 GiB, Linux 6.1; 2 threads on either side; load before the first row: 0.2"
            ),
            "{page}"
        );
        assert_eq!(page.matches("| vit_small_patch16_224 |").count(), 2, "{page}");
    }
}
