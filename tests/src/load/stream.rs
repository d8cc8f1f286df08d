//! One trial's samples on their way: a batch a second, as an agent makes them, and no more of them under way at once than
//! an agent allows itself.

use std::collections::VecDeque;
use std::time::Duration;

use fleet_common::id::Attempt;
use fleet_common::telemetry::Sample;
use fleet_common::wire;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::machines::{Held, said};
use super::{Load, readings};

/// Batches that an agent has under way without an acknowledgement.
const IN_FLIGHT: usize = 8;
/// An acknowledgement that takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of a stream.
#[derive(Debug, Default)]
pub struct Told {
    /// Samples that were acknowledged.
    pub acknowledged: u64,
    /// From when each batch was complete to its acknowledgement, seconds. A batch that had to wait for those before it
    /// counts from when it was complete, not from when it was sent.
    pub seconds: Vec<f64>,
}

/// Sends the samples of the trial with this number from `start` on.
///
/// # Errors
/// The stream broke; it is said how.
pub async fn stream(held: Held, trial: usize, load: Load, start: Instant) -> Result<Told, String> {
    let mut client = held.client.clone();
    let id = wire::trial(Some(held.trial)).map_err(|e| e.to_string())?;
    let attempt: Attempt = held.attempt.try_into().map_err(|e| format!("{e}"))?;
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let mut acks = client.samples(ReceiverStream::new(receiver)).await.map_err(said)?.into_inner();
    // Trials begin at any moment of a second.
    let phase = Duration::from_secs_f64(trial as f64 / load.trials as f64);
    let complete = |batch: u64| start + phase + Duration::from_secs(batch + 1);
    let mut under_way: VecDeque<(u64, Instant)> = VecDeque::new();
    let (mut next, mut told) = (0, Told::default());
    while next < load.seconds || !under_way.is_empty() {
        let due = next < load.seconds && under_way.len() < IN_FLIGHT;
        tokio::select! {
            () = tokio::time::sleep_until(complete(next)), if due => {
                let numbers = next * load.per_batch()..(next + 1) * load.per_batch();
                let samples: Vec<Sample> = numbers.map(|n| readings::sample(trial, n, load.hertz)).collect();
                let batch = wire::batch(&id, attempt, &samples, 1_700_000_000_000_000_000, "simulated");
                sender.send(batch).await.map_err(|_| "the coordinator ended the stream".to_owned())?;
                under_way.push_back(((next + 1) * load.per_batch() - 1, complete(next)));
                next += 1;
            }
            ack = tokio::time::timeout(PATIENCE, acks.message()) => {
                let ack = ack.map_err(|_| "no acknowledgement came".to_owned())?.map_err(said)?;
                let ack = ack.ok_or("the coordinator ended the stream")?;
                while let Some((last, complete)) = under_way.front().copied().filter(|(last, _)| *last <= ack.number) {
                    told.seconds.push(complete.elapsed().as_secs_f64());
                    told.acknowledged = last + 1;
                    under_way.pop_front();
                }
            }
        }
    }
    Ok(told)
}
