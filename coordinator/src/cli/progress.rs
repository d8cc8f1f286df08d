//! A campaign's progress on a terminal: bars that stay in place, or in a log a line per change.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use fleet_common::units;
use fleet_common::wire::v1;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// In a log, running trials are told about this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the status of one campaign again and again.
pub(super) struct Progress {
    bars: Option<Bars>,
    told: Option<(u64, Instant)>,
    started: Instant,
    speed: Option<Speed>,
}

/// How fast trials end.
struct Speed {
    /// Ended trials when watching began: those say nothing about the speed.
    before: u64,
    /// Ended trials by now, and how long after the beginning of watching the latest of them ended.
    latest: (u64, Duration),
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    running: BTreeMap<String, ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} trials{msg}");
            let total = all.add(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
            Bars { all, total, running: BTreeMap::new() }
        });
        Self { bars, told: None, started: Instant::now(), speed: None }
    }

    /// Shows a status.
    pub(super) fn show(&mut self, c: &v1::CampaignStatus) {
        let ended = ended(c);
        let total = ended + c.waiting + c.leased;
        let left = self.left(ended, total - ended);
        match &mut self.bars {
            Some(bars) => bars.show(c, ended, total, &left),
            None => self.line(c, ended, total, &left),
        }
    }

    /// How long `waiting` trials will take at the speed so far, in words.
    fn left(&mut self, ended: u64, waiting: u64) -> String {
        let elapsed = self.started.elapsed();
        let speed = self.speed.get_or_insert(Speed { before: ended, latest: (ended, elapsed) });
        if speed.latest.0 != ended {
            speed.latest = (ended, elapsed);
        }
        // A retry takes ended trials back.
        remaining(ended.saturating_sub(speed.before), speed.latest.1, waiting, elapsed)
    }

    /// In a log: when a trial ended, and now and then what runs.
    fn line(&mut self, c: &v1::CampaignStatus, ended: u64, total: u64, left: &str) {
        let new = match self.told {
            None => true,
            Some((before, at)) => before != ended || at.elapsed() >= LINE_EVERY,
        };
        if !new {
            return;
        }
        self.told = Some((ended, Instant::now()));
        let running: Vec<String> = c.running.iter().map(|r| format!("{} [{}]", r.label, stage(r))).collect();
        let running = if running.is_empty() { waiting(c) } else { running.join("; ") };
        eprintln!("{}: {ended}/{total} trials ended{left}; {running}", c.name);
    }

    /// Clears what was shown.
    pub(super) fn finish(self) {
        if let Some(bars) = self.bars {
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn show(&mut self, c: &v1::CampaignStatus, ended: u64, total: u64, left: &str) {
        self.total.set_prefix(c.name.clone());
        self.total.set_length(total);
        self.total.set_position(ended);
        let waits = if c.running.is_empty() { format!("; {}", waiting(c)) } else { String::new() };
        self.total.set_message(format!("{left}{waits}"));
        let mut still = BTreeMap::new();
        for r in &c.running {
            let key = format!("{}{}", r.agent, r.slot);
            let bar = self.running.remove(&key).unwrap_or_else(|| {
                let style = ProgressStyle::with_template("  {bar:20} {msg}");
                let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                self.all.add(bar)
            });
            bar.set_length(r.of.max(1));
            bar.set_position(r.done);
            bar.set_message(format!("{}  {}  ({} {})", r.label, stage(r), r.agent, r.slot));
            still.insert(key, bar);
        }
        for bar in self.running.values() {
            self.all.remove(bar);
        }
        self.running = still;
    }
}

/// Trials that have ended, one way or another.
pub(super) fn ended(c: &v1::CampaignStatus) -> u64 {
    c.finished.iter().map(|f| f.count).sum::<u64>() + c.cancelled
}

/// "train 40/120, loss 1.83".
pub(super) fn stage(r: &v1::RunningTrial) -> String {
    let phase = if r.phase.is_empty() { "starting" } else { &r.phase };
    let done = if r.of > 0 { format!(" {}/{}", r.done, r.of) } else { String::new() };
    let loss = r.loss.map(|l| format!(", loss {l:.3}")).unwrap_or_default();
    format!("{phase}{done}{loss}")
}

fn waiting(c: &v1::CampaignStatus) -> String {
    let reasons: Vec<String> = c.waits.iter().map(|w| format!("{} waiting: {}", w.count, w.reason)).collect();
    if reasons.is_empty() { "nothing waits".to_owned() } else { reasons.join("; ") }
}

/// What is left at the speed so far, in words: `done` trials had ended after `until`, `left` have not after `elapsed`.
/// Nothing before a trial has ended, and nothing once it took longer than that: better no figure than a wrong one.
fn remaining(done: u64, until: Duration, left: u64, elapsed: Duration) -> String {
    if done == 0 || left == 0 {
        return String::new();
    }
    let each = until.as_secs_f64() / done as f64;
    let seconds = each * left as f64 - (elapsed - until).as_secs_f64();
    if seconds < 1.0 { String::new() } else { format!(", about {} left", units::duration(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_counts_down_between_the_ends_of_trials() {
        let at = Duration::from_secs;
        assert_eq!(remaining(0, at(0), 4, at(50)), "");
        assert_eq!(remaining(2, at(60), 4, at(60)), format!(", about {} left", units::duration(120.0)));
        assert_eq!(remaining(2, at(60), 4, at(70)), format!(", about {} left", units::duration(110.0)));
        assert_eq!(remaining(2, at(60), 1, at(95)), "");
        assert_eq!(remaining(6, at(95), 0, at(96)), "");
    }
}
