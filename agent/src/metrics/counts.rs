//! What is counted from the start of the daemon on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet_common::record::OutcomeClass;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters, and the registry that writes them down.
#[derive(Debug)]
pub struct Counts {
    registry: Registry,
    /// Streams of samples that broke and were opened again.
    pub reconnects: Counter,
    /// Heartbeats that got no answer.
    pub missed: Counter,
    /// Artifacts (states, kept weights) that are in the store.
    pub artifacts_sent: Counter,
    /// Their bytes.
    pub artifact_bytes_sent: Counter,
    /// Bytes of states of other machines that were fetched.
    pub artifact_bytes_received: Counter,
    /// Artifacts that could not be sent, each time.
    pub artifact_failures: Counter,
    trials: Family<[(&'static str, &'static str); 1], Counter>,
    heard: Mutex<Option<Instant>>,
}

impl Default for Counts {
    fn default() -> Self {
        let counts = Self {
            registry: Registry::default(),
            reconnects: Counter::default(),
            missed: Counter::default(),
            artifacts_sent: Counter::default(),
            artifact_bytes_sent: Counter::default(),
            artifact_bytes_received: Counter::default(),
            artifact_failures: Counter::default(),
            trials: Family::default(),
            heard: Mutex::default(),
        };
        // A rate needs the value before the first event, too.
        OutcomeClass::ALL.into_iter().for_each(|class| drop(counts.trials.get_or_create(&[("outcome", class.name())])));
        let mut registry = Registry::default();
        registry.register(
            "fleet_upload_reconnects",
            "Streams of samples that broke and were opened again",
            counts.reconnects.clone(),
        );
        registry.register("fleet_heartbeats_missed", "Heartbeats that got no answer", counts.missed.clone());
        registry.register(
            "fleet_agent_trials",
            "Trials that ended here with a record, by outcome",
            counts.trials.clone(),
        );
        for (name, help, counter) in [
            (
                "fleet_artifacts_sent",
                "States and kept weights that were put into the artifact store",
                &counts.artifacts_sent,
            ),
            ("fleet_artifact_sent_bytes", "Bytes of them", &counts.artifact_bytes_sent),
            (
                "fleet_artifact_received_bytes",
                "Bytes of states that were fetched from there",
                &counts.artifact_bytes_received,
            ),
            ("fleet_artifact_failures", "Attempts to put something there that failed", &counts.artifact_failures),
        ] {
            registry.register(name, help, counter.clone());
        }
        Self { registry, ..counts }
    }
}

impl Counts {
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A trial ended with a record.
    pub fn ended(&self, class: OutcomeClass) {
        self.trials.get_or_create(&[("outcome", class.name())]).inc();
    }

    /// The coordinator answered.
    pub fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Time since it last did; `None` before the first answer.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}
