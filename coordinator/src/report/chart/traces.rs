//! Memory and power over the time of one trial, with its phases, all on the clock of the samples.

use fleet_common::record::Record;
use fleet_common::telemetry::{MonoNanos, Sample, Series};

use crate::report::numbers::{mib, significant};
use fleet_chart::palette::{Ink, LIMIT, MUTED, Stroke, of};
use fleet_chart::panel::{Anchor, LABEL, Mark, PALE, Panel, text_width};
use fleet_chart::scale::{Scale, range};

/// One trial's readings, in seconds from the start of its first phase.
pub(crate) struct Trace<'a> {
    pub(crate) record: &'a Record,
    pub(crate) label: String,
    /// MiB that tensors hold.
    pub(crate) memory: Vec<(f64, f64)>,
    /// Watts.
    pub(crate) power: Vec<(f64, f64)>,
    /// Name, start and end.
    phases: Vec<(&'static str, f64, f64)>,
}

/// Columns of a chart over which readings are spread where they are denser; of each, the least and the greatest are
/// drawn, so that no peak is lost.
const COLUMNS: usize = 150;
/// Power that is the difference of counter readings is taken over at least this long, in seconds: a counter that is
/// updated every millisecond or so gives noise over less.
const COUNTER_WINDOW: f64 = 0.5;

impl<'a> Trace<'a> {
    /// The trace of a trial; `None` without readings of the allocator or of power.
    pub(crate) fn new(record: &'a Record, samples: &[Sample], label: String) -> Option<Self> {
        let of = |series: Series| {
            let mut found: Vec<(MonoNanos, f64)> =
                samples.iter().filter(|s| s.channel == series.into()).map(|s| (s.at, s.value as f64)).collect();
            found.sort_by_key(|(at, _)| *at);
            found
        };
        let memory = of(Series::AllocatorLiveBytes);
        let mut power: Vec<(MonoNanos, f64)> =
            of(Series::GpuPowerMilliwatts).into_iter().map(|(at, mw)| (at, mw / 1e3)).collect();
        for (series, joules) in [(Series::GpuEnergyMillijoules, 1e-3), (Series::CpuPackageEnergyMicrojoules, 1e-6)] {
            if power.is_empty() {
                power = differences(&of(series), joules);
            }
        }
        let first = memory.first().or(power.first())?.0;
        // Samples are the last attempt's.
        let windows = || {
            let all = record.phases.iter().flat_map(|p| p.windows.iter().map(move |w| (p.phase, w)));
            all.filter(|(_, w)| w.attempt == record.attempt)
        };
        let origin = windows().map(|(_, w)| w.starts_at).min().unwrap_or(first);
        let seconds = |at: MonoNanos| at.seconds_since(origin) - origin.seconds_since(at);
        let memory: Vec<(f64, f64)> = memory.into_iter().map(|(at, bytes)| (seconds(at), mib(bytes))).collect();
        let mut phases: Vec<_> = windows()
            .map(|(phase, w)| (phase.name(), seconds(w.starts_at), seconds(w.starts_at) + w.seconds))
            .collect();
        phases.sort_by(|a, b| a.1.total_cmp(&b.1));
        let power = power.into_iter().map(|(at, watts)| (seconds(at), watts)).collect();
        Some(Self { record, label, memory, power, phases })
    }

    /// From the first moment shown to the last.
    pub(crate) fn span(&self) -> (f64, f64) {
        let readings = self.memory.iter().chain(&self.power).map(|(t, _)| *t);
        let edges = self.phases.iter().flat_map(|(_, from, to)| [*from, *to]);
        let (from, to) = range(readings.chain(edges));
        (from.min(0.0), to)
    }

    /// Memory over time. `high` is the top of the axis in MiB, `span` its width: panels that are to be compared have
    /// the same.
    pub(crate) fn memory_chart(&self, high: f64, span: (f64, f64)) -> String {
        let budget = self.record.settings.budget_bytes.map(|b| mib(b as f64));
        let mut panel = self.panel(span, Scale::linear(0.0, 1.18 * high, 4), "allocated, MiB", "Allocated memory");
        panel.marks.extend(curve(&self.memory, span, of(&self.record.settings)));
        if let Some(budget) = budget.filter(|b| *b <= panel.y.high()) {
            let points = vec![(panel.x.low(), budget), (panel.x.high(), budget)];
            panel.marks.push(Mark::Line { points, ink: LIMIT, stroke: Stroke::Dashed });
            let text = format!("budget {} MiB", significant(budget, 3));
            let at = (panel.x.high(), budget);
            panel.marks.push(Mark::Words { at, dx: -4.0, dy: -7.0, text, ink: LIMIT, anchor: Anchor::End });
        }
        panel.svg()
    }

    /// Power over time.
    pub(crate) fn power_chart(&self, high: f64, span: (f64, f64)) -> String {
        let mut panel = self.panel(span, Scale::linear(0.0, 1.18 * high, 4), "power, W", "Power");
        panel.marks.extend(curve(&self.power, span, of(&self.record.settings)));
        panel.svg()
    }

    fn panel(&self, (from, to): (f64, f64), y: Scale, y_title: &str, what: &str) -> Panel {
        let (unit, per) = unit_of((from, to));
        let x = Scale::linear(from / per, to / per, 5);
        let mut panel = Panel {
            size: (380.0, 230.0),
            x,
            y,
            heading: self.label.clone(),
            x_title: format!("{unit} since loading began"),
            y_title: y_title.to_owned(),
            description: format!("{what} over the time of one trial of {}.", self.label),
            marks: Vec::new(),
        };
        let top = panel.y.high();
        for (i, (name, from, to)) in self.phases.iter().enumerate() {
            let (from, to) = (from / per, to / per);
            if i % 2 == 0 {
                panel.marks.push(Mark::Shade { from, to });
            }
            let room = panel.place((to, 0.0)).0 - panel.place((from, 0.0)).0;
            if room > text_width(name.chars().count()) {
                let text = (*name).to_owned();
                let at = ((from + to) / 2.0, top);
                panel.marks.push(Mark::Words {
                    at,
                    dx: 0.0,
                    dy: LABEL * 0.8,
                    text,
                    ink: MUTED,
                    anchor: Anchor::Middle,
                });
            }
        }
        panel
    }
}

/// The unit of a time axis, and how many seconds it has.
fn unit_of((_, to): (f64, f64)) -> (&'static str, f64) {
    if to > 3600.0 { ("min", 60.0) } else { ("s", 1.0) }
}

/// A line through the readings, or where they are too dense for one, the band that they fill.
fn curve(points: &[(f64, f64)], span: (f64, f64), ink: Ink) -> Vec<Mark> {
    let (_, per) = unit_of(span);
    let line = |points: Vec<(f64, f64)>, tenths| Mark::Line { points, ink, stroke: Stroke::Plain(tenths) };
    if points.len() <= 2 * COLUMNS {
        return vec![line(points.iter().map(|(t, v)| (t / per, *v)).collect(), 12)];
    }
    let band: Vec<(f64, f64, f64)> =
        envelope(points, COLUMNS).into_iter().map(|(t, low, high)| (t / per, low, high)).collect();
    let low = line(band.iter().map(|(t, low, _)| (*t, *low)).collect(), 6);
    let high = line(band.iter().map(|(t, _, high)| (*t, *high)).collect(), 14);
    vec![Mark::Band { points: band, ink, opacity: PALE }, low, high]
}

/// Mean power between readings of a counter at least [`COUNTER_WINDOW`] apart; `joules` per unit of the counter.
fn differences(readings: &[(MonoNanos, f64)], joules: f64) -> Vec<(MonoNanos, f64)> {
    let mut out = Vec::new();
    let Some(mut last) = readings.first().copied() else { return out };
    for (at, value) in readings.iter().copied() {
        let seconds = at.seconds_since(last.0);
        if seconds >= COUNTER_WINDOW {
            out.push((at, (value - last.1) * joules / seconds));
            last = (at, value);
        }
    }
    out
}

/// Per column of time the middle, the least and the greatest: no peak is lost.
fn envelope(points: &[(f64, f64)], columns: usize) -> Vec<(f64, f64, f64)> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let width = (last.0 - first.0) / columns as f64;
    let column = |t: f64| (((t - first.0) / width) as usize).min(columns - 1);
    points
        .chunk_by(|a, b| column(a.0) == column(b.0))
        .map(|chunk| {
            let (least, most) = range(chunk.iter().map(|(_, v)| *v));
            (first.0 + (column(chunk[0].0) as f64 + 0.5) * width, least, most)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_keeps_every_peak() {
        let points: Vec<(f64, f64)> =
            (0..10_000).map(|i| (f64::from(i), if i == 4_321 { 99.0 } else { f64::from(i % 7) })).collect();
        let band = envelope(&points, 100);
        assert_eq!(band.len(), 100);
        let peaks: Vec<_> = band.iter().filter(|(.., high)| *high == 99.0).collect();
        assert!(matches!(peaks[..], [(t, ..)] if (t - 4_321.0).abs() < 100.0), "{peaks:?}");
        assert!(band.iter().all(|(_, low, _)| *low == 0.0));
        assert_eq!(envelope(&[], 100), []);
    }

    #[test]
    fn power_from_a_counter_by_hand() {
        let at = |ms: u64| MonoNanos(ms * 1_000_000);
        let readings = [(at(0), 0.0), (at(100), 9e6), (at(500), 10e6), (at(1000), 25e6)];
        assert_eq!(differences(&readings, 1e-6), [(at(500), 20.0), (at(1000), 30.0)]);
    }
}
