//! What is waited for on behalf of one device slot: an answer to its question for work, its worker, its samples, the
//! delivery of its record.

use std::sync::Arc;
use std::time::Duration;

use fleet_common::id::SlotId;
use fleet_common::record::{Outcome, Record};
use fleet_common::wire::v1;
use fleet_observe::log;
use tokio::task::JoinHandle;
use tonic::Code;
use tracing::{Instrument as _, Span};

use super::Shared;
use super::connection::{ANSWER, answer};
use super::describe;
use super::resume::States;
use super::spool::Spool;
use super::trial::{self, Following, Lease};
use super::upload::upload;
use super::wasted::{self, Waste};
use crate::device::{self, DeviceLock};
use crate::half::{Answer, Ended, FAREWELL, Held};
use crate::meter::Hwmon;
use crate::metrics::AtWork;

/// How long a question for work may stay open.
const WAIT: Duration = Duration::from_secs(30);
/// How long a finished trial's samples may take before its record goes ahead without the rest.
const SAMPLES_PATIENCE: Duration = Duration::from_secs(60);

/// A slot, and the lock that keeps others off its device.
pub(super) struct Seat {
    pub slot: device::Slot,
    pub lock: DeviceLock,
}

/// A lease that this program cannot read. It was given back.
pub(super) struct Unreadable;

/// What there is of an attempt that has ended.
pub(super) struct Desk {
    record: Option<Arc<Record>>,
    spool: Option<Arc<Spool>>,
    /// Sends the spool.
    uploading: Option<JoinHandle<()>>,
    /// Metrics show the slot as busy.
    _at_work: Option<AtWork>,
}

impl Desk {
    /// Of a record that an earlier daemon left.
    pub(super) fn late(record: Record) -> Self {
        Self { record: Some(Arc::new(record)), spool: None, uploading: None, _at_work: None }
    }

    /// The samples of a late record, which are sent by somebody else.
    pub(super) fn goes_with(&mut self, spool: Arc<Spool>) {
        self.spool = Some(spool);
    }

    pub(super) fn to_deliver(&self) -> Option<(Arc<Record>, Option<Arc<Spool>>)> {
        Some((self.record.clone()?, self.spool.clone()))
    }

    pub(super) fn spool(&self) -> Option<Arc<Spool>> {
        self.spool.clone()
    }

    /// What is not sent yet goes on beside the next trial; what is left when the daemon ends, its successor sends.
    pub(super) fn clear(self) {
        if let (Some(uploading), Some(spool)) = (self.uploading, self.spool) {
            tokio::spawn(async move {
                if uploading.await.is_ok() && spool.is_done() {
                    spool.remove();
                }
            });
        }
    }
}

/// What came of an attempt.
pub(super) struct Worked {
    pub ended: Ended,
    pub desk: Option<Desk>,
}

/// Asks for work.
pub(super) async fn pull(shared: &Shared, slot: &SlotId) -> anyhow::Result<Option<Result<Box<Lease>, Unreadable>>> {
    let request =
        v1::PullRequest { agent: shared.id.to_string(), slot: slot.to_string(), wait_ms: WAIT.as_millis() as u64 };
    // Beyond the wait there is only the way; a coordinator that vanished without a word must not hold us for ever.
    let reply = tokio::time::timeout(WAIT + ANSWER, shared.client.clone().pull(request)).await??.into_inner();
    let Some(lease) = reply.lease else { return Ok(None) };
    let held = v1::HeldLease { trial: lease.trial.clone(), attempt: lease.attempt, slot: slot.to_string() };
    match Lease::try_from(lease) {
        Ok(lease) => Ok(Some(Ok(Box::new(lease)))),
        Err(error) => {
            // Kept, it would be offered to this slot for ever.
            tracing::error!(%slot, %error, "the lease cannot be read; giving it back");
            release(shared, held, format!("agent {} cannot read it: {error}", shared.id)).await;
            Ok(Some(Err(Unreadable)))
        }
    }
}

/// What is logged of an attempt.
pub(super) fn span(shared: &Shared, held: &Held) -> Span {
    log::trial_span(&held.trial.cell, held.trial.repeat, held.attempt.get(), &shared.id, &held.slot)
}

/// From the lease to the end of the attempt.
pub(super) async fn work(shared: &Arc<Shared>, seat: &Seat, lease: &Lease, following: Following) -> Worked {
    let Seat { slot, lock } = seat;
    let spool = match Spool::create(&shared.options.state.join("spool"), &lease.trial, lease.attempt, &slot.id) {
        Ok(spool) => Arc::new(spool),
        Err(error) => {
            tracing::error!(%error, "samples cannot be spooled; giving the lease back");
            return Worked { ended: Ended::NotBegun(format!("the agent's disk refuses: {error}")), desk: None };
        }
    };
    let waits = spool.clone();
    let sensors = Hwmon::open(&shared.options.meters.hwmon).map(|hwmon| hwmon.names()).unwrap_or_default();
    let at_work = shared.metrics.begin(slot, &lease.settings, sensors, move || waits.waiting());
    let sender = (shared.id.clone(), slot.id.clone());
    let uploading = upload(shared.client.clone(), spool.clone(), sender, shared.metrics.clone());
    let uploading = tokio::spawn(uploading.in_current_span());
    let ended = trial::run(shared, slot, lock, lease, &spool, following).await;
    at_work.meters_end();
    spool.close();
    let (ended, record) = match ended {
        trial::Ended::Record(record) => {
            shared.metrics.counts.ended(record.outcome.kind());
            let fit = !matches!(record.outcome, Outcome::Crashed { .. } | Outcome::BadInput { .. });
            (Ended::Record { fit }, Some(Arc::from(record)))
        }
        trial::Ended::Stopped(reason) => {
            tracing::info!(trial = %lease.trial, attempt = %lease.attempt, reason, "stopped");
            spool.ended();
            (Ended::Stopped(reason), None)
        }
    };
    Worked {
        ended,
        desk: Some(Desk { record, spool: Some(spool), uploading: Some(uploading), _at_work: Some(at_work) }),
    }
}

/// Puts a record into the outbox, durably.
pub(super) fn keep(shared: &Shared, record: &Record, spool: Option<&Spool>) {
    if let Err(error) = shared.outbox.put(record) {
        // Still in memory; only a crash of this process could lose it now.
        tracing::error!(%error, "the record could not be kept on disk");
    }
    spool.into_iter().for_each(Spool::ended);
}

/// Delivers a record; its samples first, so that the coordinator can seal them.
pub(super) async fn report(shared: &Shared, record: &Record, samples: Option<&Spool>) -> Answer {
    describe::look(shared, record).await;
    if let Some(spool) = samples
        && tokio::time::timeout(SAMPLES_PATIENCE, all_sent(spool)).await.is_err()
    {
        tracing::warn!(trial = %record.trial, "samples are still not acknowledged; trying to deliver the record");
    }
    let request = v1::ReportRequest {
        agent: shared.id.to_string(),
        slot: record.machine.slot.to_string(),
        trial: Some((&record.trial).into()),
        attempt: record.attempt.get(),
        record_json: record.to_json(),
    };
    let mut client = shared.client.clone();
    match answer(client.report(request)).await {
        Ok(reply) => {
            let outcome = reply.into_inner().outcome();
            let counts =
                outcome == v1::report_reply::Outcome::Recorded || outcome == v1::report_reply::Outcome::AlreadyRecorded;
            if !(counts && record.outcome.kind().is_result()) {
                let reason = record.outcome.reason().unwrap_or_else(|| "another attempt's record counts".to_owned());
                let waste = Waste::of_record(&shared.options.state, record, reason);
                waste.into_iter().for_each(|waste| shared.untold.put(&shared.id, waste));
            }
            tracing::info!(trial = %record.trial, attempt = %record.attempt, outcome = outcome.as_str_name(), "delivered");
            Answer::Taken
        }
        Err(status) if status.code() == Code::InvalidArgument => {
            tracing::error!(trial = %record.trial, message = status.message(), "the coordinator refuses the record");
            Answer::Refused
        }
        Err(status) => {
            tracing::debug!(message = status.message(), "the record could not be delivered yet");
            Answer::Failed
        }
    }
}

/// Forgets a record that is delivered, and the states that nobody goes on from.
pub(super) fn settle(shared: &Shared, record: &Record) {
    shared.outbox.remove(record);
    if record.outcome.kind().is_result() {
        States::of(&shared.options.state, &record.trial).remove();
    }
}

/// Gives a lease back, with what is left to send of the attempt.
pub(super) async fn give_back(shared: &Shared, held: &Held, reason: String, spool: Option<&Spool>) {
    if let Some(spool) = spool {
        let _ = tokio::time::timeout(FAREWELL, all_sent(spool)).await;
    }
    release(shared, held.into(), reason).await;
    if spool.is_some() {
        let _ = tokio::time::timeout(FAREWELL, wasted::tell_now(shared)).await;
    }
}

/// Returns when all samples are acknowledged.
async fn all_sent(spool: &Spool) {
    while !spool.is_done() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn release(shared: &Shared, held: v1::HeldLease, reason: String) {
    let request = v1::ReleaseRequest { agent: shared.id.to_string(), lease: Some(held), reason };
    // One try: what does not arrive is settled by the next introduction, or by the lease's end.
    let _ = tokio::time::timeout(Duration::from_secs(2), shared.client.clone().release(request)).await;
}
