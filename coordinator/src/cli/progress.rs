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
        Self { bars, told: None }
    }

    /// Shows a status.
    pub(super) fn show(&mut self, c: &v1::CampaignStatus) {
        let ended = ended(c);
        let total = ended + c.waiting + c.leased;
        let left = left(c);
        match &mut self.bars {
            Some(bars) => bars.show(c, ended, total, &left),
            None => self.line(c, ended, total, &left),
        }
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

/// What is left, in words; nothing while nothing is known.
fn left(c: &v1::CampaignStatus) -> String {
    let eta = c.eta.as_ref().and_then(|e| Some((e.seconds?, e.seconds_90?)));
    eta.map_or_else(String::new, |(seconds, most)| {
        format!(", about {} left (90 %: {})", units::duration(seconds), units::duration(most))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_once_it_is_known() {
        let eta = |seconds, seconds_90| Some(v1::Eta { seconds, seconds_90, note: String::new() });
        let status = |eta| v1::CampaignStatus { eta, ..Default::default() };
        assert_eq!(left(&status(None)), "");
        assert_eq!(left(&status(eta(None, None))), "");
        assert_eq!(left(&status(eta(Some(7800.0), Some(10200.0)))), ", about 2 h 10 min left (90 %: 2 h 50 min)");
    }
}
