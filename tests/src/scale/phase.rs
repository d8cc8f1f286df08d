//! Agents at work for a while: what they waited for, and what it cost the coordinator.

use std::time::Duration;

use super::{Agents, Pace, Stage};

/// Before anything counts: connections are made, and everyone has a trial.
const WARM_UP: Duration = Duration::from_secs(2);

/// What one agent was told, seconds.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// From asking to a lease.
    pub(super) leased: Vec<f64>,
    /// From delivering a record to its confirmation.
    pub(super) recorded: Vec<f64>,
}

/// How long something took, in the middle and at worst.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    /// Milliseconds that half of all took at most.
    pub p50: f64,
    /// Milliseconds that all but one in a hundred took at most.
    pub p99: f64,
    /// Milliseconds that all took at most.
    pub most: f64,
}

impl Latency {
    /// Of these, in seconds; nothing of none.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = ((seconds.len() as f64 * share).ceil() as usize).clamp(1, seconds.len().max(1)) - 1;
            seconds.get(place).map_or(f64::NAN, |s| s * 1e3)
        };
        Self { p50: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Completed trials per second.
    pub per_second: f64,
    /// From asking to a lease.
    pub lease: Latency,
    /// From delivering a record to its confirmation.
    pub report: Latency,
    /// The coordinator's CPU time per completed trial, milliseconds.
    pub cpu_ms: f64,
    /// The share of one core that the coordinator had.
    pub cores: f64,
    /// The most memory that it ever had, bytes.
    pub resident: u64,
    /// Trials that were completed.
    pub completed: u64,
}

impl Found {
    /// Has agents work for `time`.
    ///
    /// # Errors
    /// Something was refused, or no trial was completed.
    pub async fn measure(stage: &Stage, agents: &Agents, pace: Pace, time: Duration) -> Result<Self, String> {
        let working = agents.work(pace, WARM_UP, time);
        let costs = async {
            tokio::time::sleep(WARM_UP).await;
            let before = stage.serving.cost();
            tokio::time::sleep(time).await;
            (before, stage.serving.cost())
        };
        let (told, (before, after)) = tokio::join!(working, costs);
        let told = told?;
        let completed: usize = told.iter().map(|t| t.recorded.len()).sum();
        if completed == 0 {
            return Err("no trial was completed".to_owned());
        }
        let cpu = after.cpu - before.cpu;
        Ok(Self {
            per_second: completed as f64 / time.as_secs_f64(),
            lease: Latency::of(told.iter().flat_map(|t| t.leased.iter().copied()).collect()),
            report: Latency::of(told.iter().flat_map(|t| t.recorded.iter().copied()).collect()),
            cpu_ms: cpu * 1e3 / completed as f64,
            cores: cpu / time.as_secs_f64(),
            resident: after.resident,
            completed: completed as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let latency = Latency::of((1..=200).rev().map(|n| f64::from(n) / 1e3).collect());
        assert_eq!((latency.p50.round(), latency.p99.round(), latency.most.round()), (100.0, 198.0, 200.0));
        assert!(Latency::of(vec![]).p50.is_nan());
    }
}
