//! One device slot's life: ask for a lease, run it, deliver the record, ask again.

use std::sync::Arc;
use std::time::Duration;

use fleet_common::id::{Attempt, SlotId, TrialId};
use fleet_common::record::{Outcome, Record};
use fleet_common::wire::v1;
use fleet_observe::log;
use tonic::Code;
use tracing::{Instrument as _, Span};

use super::Shared;
use super::backoff::Backoff;
use super::characterise::characterise;
use super::connection::{ANSWER, answer};
use super::describe;
use super::resume::States;
use super::spool::Spool;
use super::trial::{self, Ended, Lease};
use super::upload::upload;
use super::wasted::{self, Waste};
use crate::device::{DeviceLock, Slot};
use crate::meter::Hwmon;

/// How long a question for work may stay open.
const WAIT: Duration = Duration::from_secs(30);
/// When the daemon is to end, a delivery that is under way may take so long.
const FAREWELL: Duration = Duration::from_secs(2);
/// After a lease that cannot be read, the slot waits this long: the next would be no better.
const UNREADABLE: Duration = Duration::from_secs(10);
/// After a trial that crashed or found bad input the slot pauses, longer each time in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No longer than this: somebody may have put things right.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a finished trial's samples may take before its record goes ahead without the rest.
const SAMPLES_PATIENCE: Duration = Duration::from_secs(60);

/// Runs trials in `slot` until the daemon stops; first delivers a record that an earlier daemon left.
pub(super) async fn run(
    shared: Arc<Shared>,
    slot: Slot,
    lock: DeviceLock,
    undelivered: Option<(Option<Arc<Spool>>, Record)>,
) {
    if let Some((spool, record)) = undelivered {
        deliver_late(&shared, &record, spool.as_deref()).await;
    }
    characterise(&shared, &slot).await;
    let mut backoff = Backoff::default();
    let mut failures = Backoff::between(FIRST_PAUSE, LONGEST_PAUSE);
    while !shared.is_stopping() {
        let lease = tokio::select! {
            lease = pull(&shared, &slot) => lease,
            () = shared.stopped() => return,
        };
        match lease {
            Ok(Some(lease)) => {
                backoff.reset();
                let span = span(&shared, &lease.trial, lease.attempt, &slot.id);
                let pause = if work(&shared, &slot, &lock, lease).instrument(span).await {
                    failures.reset();
                    shared.options.cool_down
                } else {
                    // A slot that fails at everything should not burn through the queue.
                    failures.step()
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shared.stopped() => return,
                }
            }
            Ok(None) => backoff.reset(),
            Err(error) => {
                tracing::debug!(slot = %slot.id, %error, "asking for work failed");
                tokio::select! {
                    () = backoff.wait() => {}
                    () = shared.stopped() => return,
                }
            }
        }
    }
}

async fn pull(shared: &Shared, slot: &Slot) -> anyhow::Result<Option<Lease>> {
    let request =
        v1::PullRequest { agent: shared.id.to_string(), slot: slot.id.to_string(), wait_ms: WAIT.as_millis() as u64 };
    // Beyond the wait there is only the way; a coordinator that vanished without a word must not hold us for ever.
    let reply = tokio::time::timeout(WAIT + ANSWER, shared.client.clone().pull(request)).await??.into_inner();
    let Some(lease) = reply.lease else { return Ok(None) };
    let held = v1::HeldLease { trial: lease.trial.clone(), attempt: lease.attempt, slot: slot.id.to_string() };
    match Lease::try_from(lease) {
        Ok(lease) => Ok(Some(lease)),
        Err(error) => {
            // Kept, it would be offered to this slot for ever.
            tracing::error!(slot = %slot.id, %error, "the lease cannot be read; giving it back");
            release(shared, held, format!("agent {} cannot read it: {error}", shared.id)).await;
            tokio::time::sleep(UNREADABLE).await;
            Ok(None)
        }
    }
}

/// What is logged of an attempt.
fn span(shared: &Shared, trial: &TrialId, attempt: Attempt, slot: &SlotId) -> Span {
    log::trial_span(&trial.cell, trial.repeat, attempt.get(), &shared.id, slot)
}

/// From the lease to the delivered record; `false` if what came out says that this slot is not fit for work.
async fn work(shared: &Arc<Shared>, slot: &Slot, lock: &DeviceLock, lease: Lease) -> bool {
    let spool = match Spool::create(&shared.options.state.join("spool"), &lease.trial, lease.attempt, &slot.id) {
        Ok(spool) => Arc::new(spool),
        Err(error) => {
            tracing::error!(%error, "samples cannot be spooled; giving the lease back");
            release(shared, held(slot, &lease), format!("the agent's disk refuses: {error}")).await;
            return false;
        }
    };
    let waits = spool.clone();
    let sensors = Hwmon::open(&shared.options.meters.hwmon).map(|hwmon| hwmon.names()).unwrap_or_default();
    let at_work = shared.metrics.begin(slot, &lease.settings, sensors, move || waits.waiting());
    let sender = (shared.id.clone(), slot.id.clone());
    let uploading = upload(shared.client.clone(), spool.clone(), sender, shared.metrics.clone());
    let uploading = tokio::spawn(uploading.in_current_span());
    let ended = trial::run(shared, slot, lock, &lease, &spool).await;
    at_work.meters_end();
    spool.close();
    let fit = match &ended {
        Ended::Record(record) => !matches!(record.outcome, Outcome::Crashed { .. } | Outcome::BadInput { .. }),
        Ended::Stopped(_) => true,
    };
    match ended {
        Ended::Record(record) => {
            shared.metrics.counts.ended(record.outcome.kind());
            if let Err(error) = shared.outbox.put(&record) {
                // Still in memory; only a crash of this process could lose it now.
                tracing::error!(%error, "the record could not be kept on disk");
            }
            spool.ended();
            describe::look(shared, slot, &record).await;
            deliver(shared, &record, Some(&spool)).await;
        }
        Ended::Stopped(reason) => {
            tracing::info!(trial = %lease.trial, attempt = %lease.attempt, reason, "stopped");
            spool.ended();
            let _ = tokio::time::timeout(FAREWELL, all_sent(&spool)).await;
            release(shared, held(slot, &lease), reason).await;
            let _ = tokio::time::timeout(FAREWELL, wasted::tell_now(shared)).await;
        }
    }
    // What is not sent yet goes on beside the next trial; what is left when the daemon ends, its successor sends.
    tokio::spawn(async move {
        if uploading.await.is_ok() && spool.is_done() {
            spool.remove();
        }
    });
    shared.running().remove(&slot.id);
    fit
}

/// Delivers a record that an earlier daemon left.
pub(super) async fn deliver_late(shared: &Shared, record: &Record, samples: Option<&Spool>) {
    let span = span(shared, &record.trial, record.attempt, &record.machine.slot);
    span.in_scope(|| tracing::info!("delivering a record from before the restart"));
    deliver(shared, record, samples).instrument(span).await;
}

/// Delivers a record, however long it takes; its samples first, so that the coordinator can seal them.
async fn deliver(shared: &Shared, record: &Record, samples: Option<&Spool>) {
    let mut backoff = Backoff::default();
    loop {
        if let Some(spool) = samples {
            tokio::select! {
                sent = tokio::time::timeout(SAMPLES_PATIENCE, all_sent(spool)) => if sent.is_err() {
                    tracing::warn!(trial = %record.trial, "samples are still not acknowledged; trying to deliver the record");
                },
                () = farewell(shared) => return,
            }
        }
        let request = v1::ReportRequest {
            agent: shared.id.to_string(),
            slot: record.machine.slot.to_string(),
            trial: Some((&record.trial).into()),
            attempt: record.attempt.get(),
            record_json: record.to_json(),
        };
        let mut client = shared.client.clone();
        let reply = tokio::select! {
            reply = answer(client.report(request)) => reply,
            () = farewell(shared) => return,
        };
        match reply {
            Ok(reply) => {
                let outcome = reply.into_inner().outcome();
                let counts = outcome == v1::report_reply::Outcome::Recorded
                    || outcome == v1::report_reply::Outcome::AlreadyRecorded;
                if !(counts && record.outcome.kind().is_result()) {
                    let reason =
                        record.outcome.reason().unwrap_or_else(|| "another attempt's record counts".to_owned());
                    let waste = Waste::of_record(&shared.options.state, record, reason);
                    waste.into_iter().for_each(|waste| shared.untold.put(&shared.id, waste));
                }
                tracing::info!(trial = %record.trial, attempt = %record.attempt, outcome = outcome.as_str_name(), "delivered");
                break;
            }
            Err(status) if status.code() == Code::InvalidArgument => {
                tracing::error!(trial = %record.trial, message = status.message(), "the coordinator refuses the record");
                break;
            }
            Err(status) => {
                tracing::debug!(message = status.message(), "the record could not be delivered yet");
                tokio::select! {
                    () = backoff.wait() => {}
                    () = shared.stopped() => return,
                }
            }
        }
    }
    shared.outbox.remove(record);
    if record.outcome.kind().is_result() {
        States::of(&shared.options.state, &record.trial).remove();
    }
    shared.running().remove(&record.machine.slot);
}

/// Returns when all samples are acknowledged.
async fn all_sent(spool: &Spool) {
    while !spool.is_done() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns when the daemon is to end and what is under way has had its chance. A record stays in the outbox then, and
/// the next daemon delivers it.
async fn farewell(shared: &Shared) {
    shared.stopped().await;
    tokio::time::sleep(FAREWELL).await;
}

fn held(slot: &Slot, lease: &Lease) -> v1::HeldLease {
    v1::HeldLease { trial: Some((&lease.trial).into()), attempt: lease.attempt.get(), slot: slot.id.to_string() }
}

async fn release(shared: &Shared, held: v1::HeldLease, reason: String) {
    let request = v1::ReleaseRequest { agent: shared.id.to_string(), lease: Some(held), reason };
    // One try: what does not arrive is settled by the next introduction, or by the lease's end.
    let _ = tokio::time::timeout(Duration::from_secs(2), shared.client.clone().release(request)).await;
}
