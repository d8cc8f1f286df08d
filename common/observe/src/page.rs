//! Metrics, declared once, and their values at one moment as text for Prometheus.
//!
//! A page is made anew for each scrape. What is not known at that moment has no value on it, instead of its latest one;
//! every metric is declared nevertheless, so that a page says what its program could tell.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// How values of a metric relate to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever rises, but for restarts.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A counter whose name others have chosen, without the `_total` that a counter's has to end in.
    Untyped,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with the unit.
    pub name: &'static str,
    /// How its values relate.
    pub kind: Kind,
    /// What it is, in a sentence without its end.
    pub help: &'static str,
}

/// Declares metrics for the crate, and `ALL` of them.
#[macro_export]
macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub(crate) const $constant: $crate::page::Metric =
            $crate::page::Metric { name: $name, kind: $crate::page::Kind::$kind, help: $help };)*

        /// Every metric of this table.
        pub(crate) const ALL: &[$crate::page::Metric] = &[$($constant,)*];
    };
}

/// Names and values of labels, and the value under them.
type Row = (Vec<(&'static str, String)>, f64);

/// Values at one moment.
#[derive(Debug, Default)]
pub struct Page(BTreeMap<&'static str, (Metric, Vec<Row>)>);

impl Page {
    /// A page that declares these metrics.
    pub fn of<'m>(metrics: impl IntoIterator<Item = &'m Metric>) -> Self {
        Self(metrics.into_iter().map(|m| (m.name, (*m, Vec::new()))).collect())
    }

    /// Puts a value on the page.
    pub fn put<const N: usize>(&mut self, metric: &Metric, labels: [(&'static str, &str); N], value: f64) {
        let labels = labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        self.0.entry(metric.name).or_insert((*metric, Vec::new())).1.push((labels, value));
    }

    /// The text, with what `lasting` has counted since the start.
    pub fn text(self, lasting: &Registry) -> String {
        let mut moment = Registry::default();
        moment.register_collector(Box::new(self));
        let mut text = String::new();
        for registry in [lasting, &moment] {
            prometheus_text::encode(&mut text, registry).expect("a String takes all text");
        }
        text
    }
}

impl Collector for Page {
    fn encode(&self, mut page: DescriptorEncoder) -> std::fmt::Result {
        for (metric, rows) in self.0.values() {
            let (name, kind) = match metric.kind {
                // The encoder appends it again.
                Kind::Counter => (metric.name.trim_end_matches("_total"), MetricType::Counter),
                Kind::Gauge => (metric.name, MetricType::Gauge),
                Kind::Untyped => (metric.name, MetricType::Unknown),
            };
            let mut family = page.encode_descriptor(name, &format!("{}.", metric.help), None, kind)?;
            for (labels, value) in rows {
                let row = family.encode_family(labels)?;
                match metric.kind {
                    Kind::Counter => encode(&ConstCounter::new(*value), row)?,
                    Kind::Gauge | Kind::Untyped => encode(&ConstGauge::new(*value), row)?,
                }
            }
        }
        Ok(())
    }
}

fn encode(
    metric: &impl prometheus_client::encoding::EncodeMetric,
    row: prometheus_client::encoding::MetricEncoder,
) -> std::fmt::Result {
    metric.encode(row)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    metrics! {
        JOULES = Counter "test_energy_joules_total", "Energy";
        WATTS = Gauge "test_power_watts", "Power";
        THEIRS = Untyped "TEST_THEIR_ENERGY", "Energy in mJ";
    }

    #[test]
    fn a_page_declares_all_and_shows_what_there_is() {
        let mut lasting = Registry::default();
        let counter = Counter::<u64>::default();
        counter.inc();
        lasting.register("test_events", "Events", counter);
        let mut page = Page::of(ALL);
        page.put(&JOULES, [("slot", "cuda:0"), ("name", "a \"b\"\\\n")], 1.5);
        page.put(&JOULES, [("slot", "cpu"), ("name", "")], 2.0);
        page.put(&THEIRS, [], 3e6);
        let text = page.text(&lasting);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "# HELP test_events_total Events.",
                "# TYPE test_events_total counter",
                "test_events_total 1",
                "# HELP TEST_THEIR_ENERGY Energy in mJ.",
                "# TYPE TEST_THEIR_ENERGY untyped",
                "TEST_THEIR_ENERGY 3000000.0",
                "# HELP test_energy_joules_total Energy.",
                "# TYPE test_energy_joules_total counter",
                r#"test_energy_joules_total{slot="cuda:0",name="a \"b\"\\\n"} 1.5"#,
                r#"test_energy_joules_total{slot="cpu",name=""} 2.0"#,
                "# HELP test_power_watts Power.",
                "# TYPE test_power_watts gauge",
            ]
        );
    }
}
