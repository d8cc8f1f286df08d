//! What is counted from the start of the process on.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fleet_common::lease::Release;
use fleet_common::record::{EnergyDomain, OutcomeClass, Record};
use fleet_common::telemetry::Seal;
use fleet_secure::server::Refused;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use super::Tally;
use crate::core::{Reply, Reported};
use crate::store::Made;

/// Names and values of labels; all values are the program's own, so that their number is bounded.
type Labels<const N: usize> = [(&'static str, &'static str); N];
/// A method and a code, which may be one that only a newer library knows.
pub(super) type Asked = [(&'static str, String); 2];

/// Counters, and the registry that writes them down.
#[derive(Debug)]
pub struct Counts {
    registry: Registry,
    granted: Counter,
    renewed: Counter,
    resumed: Counter,
    ended: Family<Labels<1>, Counter>,
    given_up: Counter,
    reports: Family<Labels<2>, Counter>,
    events: Counter,
    commits: Histogram,
    refused_commits: Counter,
    journal_bytes: Gauge,
    snapshot_bytes: Gauge,
    snapshot_event: Gauge,
    samples: Counter,
    sample_bytes: Counter,
    refused_batches: Counter,
    unknown_samples: Counter,
    refused: Family<Labels<1>, Counter>,
    sealed: Counter,
    missing: Counter,
    joules: Family<Labels<2>, Counter<f64, AtomicU64>>,
    /// Answered requests.
    pub(super) requests: Family<Asked, Counter>,
    /// How long the answers took.
    pub(super) seconds: Family<[(&'static str, String); 1], Histogram>,
}

/// Energy of what became a trial's result.
const RESULTS: &str = "results";
/// Energy of what did not.
const WASTED: &str = "wasted";

fn cause(release: Release) -> &'static str {
    match release {
        Release::Silent => "silent",
        Release::Restarted => "restarted",
        Release::Crashed => "crashed",
        Release::Unfit => "unfit",
        Release::Returned => "returned",
    }
}

fn verdict(reported: Reported) -> &'static str {
    match reported {
        Reported::Recorded => "recorded",
        Reported::AlreadyRecorded => "already recorded",
        Reported::Superseded => "superseded",
        Reported::NotWanted => "not wanted",
    }
}

/// From a millisecond to half a minute.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// Registers a metric of which the caller keeps a handle.
fn kept<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Counts {
    fn default() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let counter = |r: &mut Registry, name, help| kept(r, name, help, Counter::default());
        let counts = Self {
            granted: counter(r, "fleet_leases_granted", "Leases granted to slots"),
            renewed: counter(r, "fleet_leases_renewed", "Renewals of leases by heartbeats and introductions"),
            resumed: counter(
                r,
                "fleet_leases_resumed",
                "Leases taken up again by a holder that was thought to be lost",
            ),
            ended: kept(
                r,
                "fleet_leases_ended",
                "Leases that ended without a record, by cause; silent and restarted are lost agents",
                Family::default(),
            ),
            given_up: counter(r, "fleet_trials_given_up", "Trials given up because they lost their agents too often"),
            reports: kept(
                r,
                "fleet_reports",
                "Records that agents delivered, by outcome and by what became of them",
                Family::default(),
            ),
            events: counter(r, "fleet_journal_events", "Events made durable in the journal"),
            commits: kept(
                r,
                "fleet_journal_commit_seconds",
                "How long making events durable took, in seconds; one commit is for many events",
                durations(),
            ),
            refused_commits: counter(
                r,
                "fleet_journal_refusals",
                "Commits that the disk refused; what they answered did not count",
            ),
            journal_bytes: kept(
                r,
                "fleet_journal_size_bytes",
                "Size of the journal's durable part, in bytes",
                Gauge::default(),
            ),
            snapshot_bytes: kept(
                r,
                "fleet_snapshot_size_bytes",
                "Size of the latest snapshot, in bytes",
                Gauge::default(),
            ),
            snapshot_event: kept(
                r,
                "fleet_snapshot_event",
                "Number of the latest event in the latest snapshot; a start replays the events behind it",
                Gauge::default(),
            ),
            samples: counter(r, "fleet_samples_stored", "Samples stored, again after a broken stream among them"),
            sample_bytes: counter(r, "fleet_samples_stored_bytes", "Bytes of those samples as they arrive"),
            refused_batches: counter(r, "fleet_sample_batches_refused", "Batches of samples that the disk refused"),
            unknown_samples: counter(
                r,
                "fleet_samples_unknown",
                "Samples of attempts that this coordinator never granted; they are dropped",
            ),
            refused: kept(
                r,
                "fleet_refused",
                "Connections and requests that were refused for safety's sake, by reason",
                Family::default(),
            ),
            sealed: counter(r, "fleet_samples_sealed", "Samples that were there when their trial's record arrived"),
            missing: counter(
                r,
                "fleet_samples_missing",
                "Samples that the agent took and that were not there when their trial's record arrived",
            ),
            joules: kept(
                r,
                "fleet_trial_energy_joules",
                "Energy of trials' devices by what was measured, and by use: results of trials, or wasted on attempts \
                 that are in no result",
                Family::default(),
            ),
            requests: kept(r, "fleet_requests", "Answered requests, by method and gRPC code", Family::default()),
            seconds: kept(
                r,
                "fleet_request_seconds",
                "Time until an answer begins, in seconds; Pull waits for work on purpose",
                Family::new_with_constructor(durations),
            ),
            registry,
        };
        counts.begin_at_zero();
        counts
    }
}

impl Counts {
    /// A rate needs the value before the first event, too.
    fn begin_at_zero(&self) {
        Refused::ALL.into_iter().for_each(|r| drop(self.refused.get_or_create(&[("reason", r.reason())])));
        Release::ALL.into_iter().for_each(|r| drop(self.ended.get_or_create(&[("cause", cause(r))])));
        for class in OutcomeClass::ALL {
            drop(self.reports.get_or_create(&[("outcome", class.name()), ("verdict", verdict(Reported::Recorded))]));
        }
        for domain in [EnergyDomain::Gpu, EnergyDomain::CpuPackages, EnergyDomain::Wall] {
            [RESULTS, WASTED].into_iter().for_each(|kind| self.spent(domain, kind, 0.0));
        }
        self.answered_request(super::requests::OTHER, tonic::Code::Unimplemented, None);
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The journal has this size.
    pub fn journal(&self, bytes: u64) {
        self.journal_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A snapshot was made.
    pub fn snapshot(&self, made: &Made) {
        self.snapshot_bytes.set(i64::try_from(made.bytes).unwrap_or(i64::MAX));
        self.snapshot_event.set(i64::try_from(made.sequence).unwrap_or(i64::MAX));
    }

    /// These events are durable; that took so long.
    pub fn committed(&self, tally: &Tally, took: Duration) {
        self.commits.observe(took.as_secs_f64());
        self.events.inc_by(tally.events);
        self.granted.inc_by(tally.granted);
        self.resumed.inc_by(tally.resumed);
        self.given_up.inc_by(tally.given_up);
        tally.wasted.iter().for_each(|(domain, joules)| self.spent(*domain, WASTED, *joules));
        for release in &tally.released {
            self.ended.get_or_create(&[("cause", cause(*release))]).inc();
        }
    }

    /// The disk refused a commit.
    pub fn refused_commit(&self) {
        self.refused_commits.inc();
    }

    /// Somebody was refused.
    pub fn refused(&self, refused: Refused) {
        self.refused.get_or_create(&[("reason", refused.reason())]).inc();
    }

    /// This answer goes out.
    pub fn answered(&self, reply: &Reply) {
        if let Reply::Registered(verdicts) | Reply::Heartbeat(Some(verdicts)) = reply {
            self.renewed.inc_by(verdicts.iter().filter(|v| v.keep.is_ok()).count() as u64);
        }
    }

    /// Energy went there. What is no energy (a record comes from the network) is left out: a counter never falls.
    fn spent(&self, domain: EnergyDomain, kind: &'static str, joules: f64) {
        if joules.is_finite() && joules >= 0.0 {
            self.joules.get_or_create(&[("domain", domain.name()), ("use", kind)]).inc_by(joules);
        }
    }

    /// A record arrived.
    pub fn reported(&self, record: &Record, reported: Reported, seal: &Seal) {
        let class = record.outcome.kind();
        self.reports.get_or_create(&[("outcome", class.name()), ("verdict", verdict(reported))]).inc();
        if reported == Reported::Recorded {
            self.sealed.inc_by(seal.stored);
            self.missing.inc_by(seal.missing);
        }
        // What is in no result, the agent tells apart.
        if reported == Reported::Recorded && class.is_result() {
            let measured = record.phases.iter().filter_map(|phase| phase.energy.value());
            measured.for_each(|energy| self.spent(energy.domain, RESULTS, energy.joules));
        }
    }

    /// A batch of so many samples and bytes was stored, or else the disk refused it.
    pub fn batch(&self, samples: usize, bytes: usize, is_stored: bool) {
        if is_stored {
            self.samples.inc_by(samples as u64);
            self.sample_bytes.inc_by(bytes as u64);
        } else {
            self.refused_batches.inc();
        }
    }

    /// So many samples belong to an attempt that is not known.
    pub fn unknown(&self, samples: usize) {
        self.unknown_samples.inc_by(samples as u64);
    }

    /// A request was answered, after this time.
    pub(super) fn answered_request(&self, method: &str, code: tonic::Code, took: Option<Duration>) {
        let method = ("method", method.to_owned());
        self.requests.get_or_create(&[method.clone(), ("code", format!("{code:?}"))]).inc_by(took.is_some().into());
        let seconds = self.seconds.get_or_create(&[method]);
        took.into_iter().for_each(|took| seconds.observe(took.as_secs_f64()));
    }
}
