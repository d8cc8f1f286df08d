//! What was found beside what was wanted.

use std::fmt::Write as _;

use crate::bench::Machine;

/// What is wanted of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Less than this.
    Below(f64),
    /// At least this.
    AtLeast(f64),
    /// Nothing; somebody else's figure stands beside it.
    Beside(&'static str),
    /// Nothing.
    None,
}

/// A table that grows, printed row by row.
#[derive(Debug, Default)]
pub struct Page {
    rows: Vec<[String; 4]>,
    missed: usize,
}

impl Page {
    /// Adds a figure: what it is, its value and unit, what else is to be said, what is wanted.
    pub fn add(&mut self, what: &str, value: f64, unit: &str, note: &str, target: Target) {
        let (wanted, met) = match target {
            Target::Below(most) => (format!("< {} {unit}", number(most)), Some(value < most)),
            Target::AtLeast(least) => (format!("≥ {} {unit}", number(least)), Some(value >= least)),
            Target::Beside(text) => (text.to_owned(), None),
            Target::None => (String::new(), None),
        };
        self.missed += usize::from(met == Some(false));
        let met = met.map_or("", |met| if met { "met" } else { "**missed**" });
        let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
        println!("{what}: {} {unit}{note} {wanted} {met}", number(value));
        self.rows.push([what.to_owned(), format!("{} {unit}{note}", number(value)), wanted, met.to_owned()]);
    }

    /// Targets that were missed.
    pub fn missed(&self) -> usize {
        self.missed
    }

    /// All of it as Markdown.
    pub fn markdown(&self, machine: &Machine, load: f64, command: &str, date: &str) -> String {
        let mut page = format!(
            "# A coordinator with hundreds of agents\n\n\
             Written by `{command}` on {date}. What is measured, and how, is in [README.md](../README.md#a-large-fleet).\n\n\
             - Machine: {}; load before the first figure: {load:.1}\n- {} figures, {} targets missed\n\n\
             | figure | found | target | |\n|---|---|---|---|\n",
            machine.hardware(),
            self.rows.len(),
            self.missed
        );
        for row in &self.rows {
            let _ = writeln!(page, "| {} |", row.join(" | "));
        }
        page
    }
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_told() {
        let mut page = Page::default();
        page.add("a lease", 12.34, "ms", "half of them", Target::Below(50.0));
        page.add("completions", 900.0, "per second", "", Target::AtLeast(1000.0));
        page.add("CPU", 0.25, "ms", "", Target::Beside("0.1 ms"));
        assert_eq!(page.missed(), 1);
        let text = page.markdown(&Machine::here(2), 0.0, "make bench-fleet", "2026-01-31");
        assert!(text.contains("| a lease | 12.3 ms (half of them) | < 50.0 ms | met |"), "{text}");
        assert!(text.contains("| completions | 900 per second | ≥ 1000 per second | **missed** |"), "{text}");
        assert!(text.contains("| CPU | 0.250 ms | 0.1 ms |  |"), "{text}");
    }
}
