//! Does what the agent's half says, and tells it what came of it. All decisions on leases are there; all waiting is
//! here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fleet_common::id::{SlotId, TrialId};
use fleet_common::record::{PhaseRecord, Record};
use fleet_common::wire::v1;
use fleet_content::Item;
use fleet_secure::client::explain;
use tokio::task::{AbortHandle, JoinSet};
use tonic::Status;
use tracing::Instrument as _;

use super::artifacts::hand_over_leftovers;
use super::slot::{self, Desk, Seat};
use super::spool::{LeftBehind, Spool};
use super::trial::{Lease, Running};
use super::{Shared, connection, send_leftovers, wasted};
use crate::device::{DeviceLock, Slot};
use crate::half::{Effect, Half, Held, Input, Pulled, Renewal, Setup};

/// Heartbeats carry progress to people who watch, so they come more often than leases need.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What a task came back with.
enum Done {
    Introduced(Result<v1::RegisterReply, Status>),
    /// States that an earlier daemon left are handed over; the introduction was answered so.
    HandedOver(v1::RegisterReply, Vec<LeftBehind>, HashMap<TrialId, Vec<PhaseRecord>>),
    Renewed(Result<v1::HeartbeatReply, Status>),
    Pulled(SlotId, anyhow::Result<Option<Result<Box<Lease>, slot::Unreadable>>>),
    Worked(Held, slot::Worked),
    Other(Input),
}

fn introduced(reply: v1::RegisterReply) -> Input {
    let every = Duration::from_millis(reply.heartbeat_every_ms.max(1));
    Input::Introduced(Some((every, connection::unwanted(reply.verdicts))))
}

/// One daemon's doing.
pub(super) struct Driver {
    shared: Arc<Shared>,
    half: Half,
    began: Instant,
    seats: HashMap<SlotId, Arc<Seat>>,
    /// Leases that are granted and not begun.
    granted: HashMap<Held, Lease>,
    /// What is there of each thing that is held.
    desks: HashMap<Held, Desk>,
    /// What the half waits for.
    tasks: JoinSet<Done>,
    /// Questions for work that are out.
    pulls: HashMap<SlotId, AbortHandle>,
    /// What goes on beside, for as long as the daemon lives.
    beside: JoinSet<()>,
    /// Somebody was told that the coordinator does not answer.
    told: bool,
    introduced: bool,
}

impl Driver {
    /// Of the agent's `starts`th daemon, with this content, these slots, and records that an earlier one left.
    pub(super) fn new(
        shared: Arc<Shared>,
        starts: u64,
        content: BTreeSet<Item>,
        slots: Vec<(Slot, DeviceLock)>,
        undelivered: Vec<Record>,
    ) -> Self {
        let held = |record: &Record| Held {
            trial: record.trial.clone(),
            attempt: record.attempt,
            slot: record.machine.slot.clone(),
        };
        for record in &undelivered {
            shared.running().insert(record.machine.slot.clone(), Running::finished(record));
        }
        let half = Half::new(Setup {
            slots: slots.iter().map(|(slot, _)| slot.id.clone()).collect(),
            introductions: starts << 32,
            content,
            late: undelivered.iter().map(held).collect(),
            cool_down: shared.options.cool_down,
            renew_every: HEARTBEAT,
            seed: rand::random(),
        });
        Self {
            half,
            began: Instant::now(),
            seats: slots.into_iter().map(|(slot, lock)| (slot.id.clone(), Arc::new(Seat { slot, lock }))).collect(),
            granted: HashMap::new(),
            desks: undelivered.into_iter().map(|r| (held(&r), Desk::late(r))).collect(),
            tasks: JoinSet::new(),
            pulls: HashMap::new(),
            beside: JoinSet::new(),
            told: false,
            introduced: false,
            shared,
        }
    }

    /// Runs until there is nothing left to do.
    ///
    /// # Errors
    /// A part of the daemon failed in a way that it has no answer to.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        let (mut stopping, mut content) = (false, shared.content.watch());
        for effect in self.half.start() {
            self.perform(effect);
        }
        while !self.half.is_over() {
            let wake = self.half.wake().map(|wake| tokio::time::Instant::from_std(self.began + wake));
            let done = tokio::select! {
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => match self.take_in(done) {
                        Some(input) => input,
                        None => continue,
                    },
                    Err(error) if error.is_cancelled() => continue,
                    Err(error) => return Err(error).context("a part of the agent failed"),
                },
                here = content.changed() => Input::Content(here),
                () = shared.stopped(), if !stopping => {
                    stopping = true;
                    Input::Stop
                }
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)).await },
                    if wake.is_some() => Input::Time,
            };
            for effect in self.half.handle(done, self.began.elapsed()) {
                self.perform(effect);
            }
        }
        Ok(())
    }

    /// What a task brought, as the half takes it.
    fn take_in(&mut self, done: Done) -> Option<Input> {
        let counts = &self.shared.metrics.counts;
        Some(match done {
            Done::Introduced(Ok(reply)) => {
                tracing::info!(agent = %self.shared.id, coordinator = self.shared.options.coordinator, "registered");
                counts.heard();
                self.shared.faults.introduced();
                self.told = false;
                self.shared.artifacts.heed(&reply);
                if !std::mem::replace(&mut self.introduced, true) {
                    // Before any work is asked for: it may be what the states are of.
                    let shared = self.shared.clone();
                    self.tasks.spawn(async move {
                        let left = Spool::left_behind(&shared.options.state.join("spool"));
                        let heartbeat = Duration::from_millis(reply.heartbeat_every_ms.max(1));
                        let overtaken = hand_over_leftovers(&shared, &left, heartbeat).await;
                        Done::HandedOver(reply, left, overtaken)
                    });
                    return None;
                }
                introduced(reply)
            }
            Done::HandedOver(reply, left, overtaken) => {
                self.begin_beside(left, &overtaken);
                introduced(reply)
            }
            Done::Introduced(Err(status)) => {
                if !std::mem::replace(&mut self.told, true) {
                    let why = explain(&status).unwrap_or_else(|| status.message().to_owned());
                    tracing::warn!(
                        coordinator = self.shared.options.coordinator,
                        "the coordinator does not answer ({why}); trying until it does",
                    );
                }
                Input::Introduced(None)
            }
            Done::Renewed(Ok(reply)) => {
                counts.heard();
                // What this agent says of its slots is said in introductions.
                let again = reply.register_again || self.shared.faults.take_news();
                Input::Renewed(match again {
                    true => Renewal::RegisterAgain,
                    false => Renewal::Heard(connection::unwanted(reply.verdicts)),
                })
            }
            Done::Renewed(Err(status)) => {
                counts.missed.inc();
                tracing::debug!(message = status.message(), "a heartbeat did not get through");
                Input::Renewed(Renewal::Failed)
            }
            Done::Pulled(slot, pulled) => {
                self.pulls.remove(&slot);
                let pulled = match pulled {
                    Ok(Some(Ok(lease))) => {
                        let (trial, attempt) = (lease.trial.clone(), lease.attempt);
                        let held = Held { trial: trial.clone(), attempt, slot: slot.clone() };
                        self.granted.insert(held, *lease);
                        Pulled::Granted(trial, attempt)
                    }
                    Ok(Some(Err(slot::Unreadable))) => Pulled::Unreadable,
                    Ok(None) => Pulled::Nothing,
                    Err(error) => {
                        tracing::debug!(%slot, %error, "asking for work failed");
                        Pulled::Failed
                    }
                };
                Input::Pulled(slot, pulled)
            }
            Done::Worked(held, worked) => {
                if let Some(desk) = worked.desk {
                    self.desks.insert(held.clone(), desk);
                }
                Input::Ended(held, worked.ended)
            }
            Done::Other(input) => {
                if let Input::Released(held) = &input {
                    self.clear(held);
                }
                input
            }
        })
    }

    fn perform(&mut self, effect: Effect) {
        let shared = self.shared.clone();
        match effect {
            Effect::Introduce(number, held, here) => {
                self.tasks
                    .spawn(async move { Done::Introduced(connection::introduce(&shared, number, held, &here).await) });
            }
            Effect::Renew(held, told) => {
                self.tasks.spawn(async move { Done::Renewed(connection::renew(&shared, held, told).await) });
            }
            Effect::Prepare(slot) => {
                let Some(seat) = self.seats.get(&slot).cloned() else { return };
                self.tasks.spawn(async move {
                    super::characterise::characterise(&shared, &seat.slot).await;
                    Done::Other(Input::Prepared(slot))
                });
            }
            Effect::Pull(slot) => {
                let asked = slot.clone();
                let pull = async move { Done::Pulled(slot.clone(), slot::pull(&shared, &slot).await) };
                self.pulls.insert(asked, self.tasks.spawn(pull));
            }
            Effect::Withdraw(slot) => {
                if let Some(pull) = self.pulls.remove(&slot) {
                    pull.abort();
                }
            }
            Effect::Run(held) => {
                let (Some(lease), Some(seat)) = (self.granted.remove(&held), self.seats.get(&held.slot)) else {
                    return;
                };
                let (running, following) = Running::begin(&lease, &held.slot);
                shared.running().insert(held.slot.clone(), running);
                let (seat, span) = (seat.clone(), slot::span(&shared, &held));
                let work = async move { Done::Worked(held, slot::work(&shared, &seat, &lease, following).await) };
                self.tasks.spawn(work.instrument(span));
            }
            Effect::Stop(held, reason) => {
                if let Some(running) = shared.running().get(&held.slot).filter(|r| r.is(&held)) {
                    running.stop(reason);
                }
            }
            Effect::Keep(held) => {
                let (record, span) = (self.desks.get(&held).and_then(Desk::to_deliver), slot::span(&shared, &held));
                self.tasks.spawn_blocking(move || {
                    if let Some((record, spool)) = record {
                        span.in_scope(|| slot::keep(&shared, &record, spool.as_deref()));
                    }
                    Done::Other(Input::Kept(held))
                });
            }
            Effect::Report(held) => {
                let Some((record, spool)) = self.desks.get(&held).and_then(Desk::to_deliver) else { return };
                let span = slot::span(&shared, &held);
                let report = async move {
                    let answer = slot::report(&shared, &record, spool.as_deref()).await;
                    Done::Other(Input::Reported(held, answer))
                };
                self.tasks.spawn(report.instrument(span));
            }
            Effect::Settle(held) => {
                if let Some((record, _)) = self.desks.get(&held).and_then(Desk::to_deliver) {
                    slot::settle(&shared, &record);
                }
                self.clear(&held);
            }
            Effect::Release(held, reason) => {
                let (spool, span) = (self.desks.get(&held).and_then(Desk::spool), slot::span(&shared, &held));
                let release = async move {
                    slot::give_back(&shared, &held, reason, spool.as_deref()).await;
                    Done::Other(Input::Released(held))
                };
                self.tasks.spawn(release.instrument(span));
            }
        }
    }

    /// Something is no longer held. What of its samples is not sent yet goes on beside.
    fn clear(&mut self, held: &Held) {
        self.desks.remove(held).into_iter().for_each(Desk::clear);
        let mut running = self.shared.running();
        if running.get(&held.slot).is_some_and(|r| r.is(held)) {
            running.remove(&held.slot);
        }
    }

    /// The coordinator is there: what an earlier daemon left to tell is told beside.
    fn begin_beside(&mut self, left: Vec<LeftBehind>, overtaken: &HashMap<TrialId, Vec<PhaseRecord>>) {
        let records: Vec<Arc<Record>> = self.desks.values().filter_map(Desk::to_deliver).map(|(r, _)| r).collect();
        let spools = send_leftovers(&self.shared, left, overtaken, &records, &mut self.beside);
        for (held, desk) in &mut self.desks {
            if let Some(spool) = spools.get(&(held.trial.clone(), held.attempt)) {
                desk.goes_with(spool.clone());
            }
            let span = slot::span(&self.shared, held);
            span.in_scope(|| tracing::info!("delivering a record from before the restart"));
        }
        let shared = self.shared.clone();
        self.beside.spawn(async move { wasted::tell(&shared).await });
    }
}
