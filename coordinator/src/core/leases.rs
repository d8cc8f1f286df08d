//! What agents ask for: work, renewals, the acceptance of what they have done.

use std::collections::HashSet;

use fleet_common::id::{AgentId, Attempt, HardwareClass, TrialId};
use fleet_common::lease::{CALLED_OFF, Holder, Release, TrialState};
use fleet_common::record::OutcomeClass;
use fleet_common::telemetry::Seal;

use super::{Agent, Claim, Core, Event, Offer, Parked, Progress, Reply, Reported, SlotInfo, Token, Verdict};

/// A coordinator that has not looked for so long was stopped, or its machine was.
const STOPPED_MS: u64 = 2_000;

impl Core {
    /// Settles both sides' views: what the agent claims is judged, and what it should hold but does not claim is taken
    /// back at once, without waiting for the lease's time.
    pub(super) fn register(
        &mut self,
        token: Token,
        agent: AgentId,
        version: String,
        host: String,
        slots: Vec<SlotInfo>,
        held: Vec<Claim>,
    ) {
        let claimed: HashSet<(TrialId, Attempt)> = held.iter().map(|c| (c.trial.clone(), c.attempt)).collect();
        let dropped: Vec<TrialId> = self
            .state
            .held_by_agent(&agent)
            .filter(|(_, trial)| {
                let attempt = self.state.trial(trial).and_then(|t| t.life.attempt);
                !attempt.is_some_and(|attempt| claimed.contains(&((*trial).clone(), attempt)))
            })
            .map(|(_, trial)| trial.clone())
            .collect();
        for trial in dropped {
            self.lose(&trial, Release::Restarted, "its agent was restarted");
        }
        // Questions of the agent's slots that came before it was known are answered, so that they are asked again; a
        // question that is only forgotten would be waited for without end.
        for parked in self.parked.extract_if(.., |p| p.holder.agent == agent).collect::<Vec<_>>() {
            self.reply(parked.token, Reply::Leased(None));
        }
        self.agents.insert(agent.clone(), Agent { version, host, slots, heard: self.now.mono });
        let verdicts = held.into_iter().map(|claim| self.judge(&agent, claim)).collect();
        self.reply(token, Reply::Registered(verdicts));
    }

    /// Renews a claimed lease, lets its former holder take it up again, or says why neither can be.
    fn judge(&mut self, agent: &AgentId, claim: Claim) -> Verdict {
        let holder = Holder { agent: agent.clone(), slot: claim.slot.clone() };
        let keep = match self.state.trial(&claim.trial) {
            None => Err("the coordinator does not know this trial".to_owned()),
            Some(t) if t.life.is_held(&holder, claim.attempt) => Ok(()),
            Some(t) if t.life.may_resume(claim.attempt) && self.state.held_by(&holder).is_none() => {
                self.record(Event::LeaseResumed {
                    trial: claim.trial.clone(),
                    attempt: claim.attempt,
                    holder: holder.clone(),
                });
                Ok(())
            }
            Some(t) => Err(match &t.life.state {
                TrialState::Cancelled => CALLED_OFF.to_owned(),
                TrialState::Finished => "it is finished".to_owned(),
                TrialState::Leased { holder, .. } => format!("attempt {} has it now ({})", attempt(t), holder.agent),
                TrialState::Waiting => format!("attempt {} is over, and it waits for another", attempt(t)),
            }),
        };
        if keep.is_ok() {
            self.state.renew(&claim.trial, &holder, self.now.mono);
        }
        Verdict { claim, keep }
    }

    pub(super) fn heartbeat(&mut self, token: Token, agent: &AgentId, running: Vec<(Claim, Progress)>) {
        let Some(known) = self.agents.get_mut(agent) else {
            return self.reply(token, Reply::Heartbeat(None));
        };
        known.heard = self.now.mono;
        let verdicts = running
            .into_iter()
            .map(|(claim, progress)| {
                let verdict = self.judge(agent, claim);
                if verdict.keep.is_ok() {
                    let since = self.progress.get(&verdict.claim.trial).map_or(self.now.mono, |(_, since)| *since);
                    self.progress.insert(verdict.claim.trial.clone(), (progress, since));
                }
                verdict
            })
            .collect();
        self.reply(token, Reply::Heartbeat(Some(verdicts)));
    }

    pub(super) fn pull(&mut self, token: Token, holder: Holder, wait_ms: u64) {
        if let Some(agent) = self.agents.get_mut(&holder.agent) {
            agent.heard = self.now.mono;
        }
        // A slot asks once at a time: an older question of the same slot lost its asker, or will be asked again.
        for parked in self.parked.extract_if(.., |p| p.holder == holder).collect::<Vec<_>>() {
            self.reply(parked.token, Reply::Leased(None));
        }
        // The answer to an earlier question got lost: the slot holds a lease that it does not know of.
        if let Some(offer) = self.state.held_by(&holder).and_then(|trial| self.offer(trial)) {
            self.state.renew(&offer.trial, &holder, self.now.mono);
            return self.reply(token, Reply::Leased(Some(offer)));
        }
        self.parked.push(Parked { token, holder, until: self.now.mono + wait_ms });
    }

    pub(super) fn class_of(&self, holder: &Holder) -> Option<&HardwareClass> {
        let agent = self.agents.get(&holder.agent)?;
        agent.slots.iter().find(|s| s.slot == holder.slot).map(|s| &s.hardware)
    }

    fn offer(&self, trial: &TrialId) -> Option<Offer> {
        let entry = self.state.trial(trial)?;
        Some(Offer {
            trial: trial.clone(),
            attempt: entry.life.attempt?,
            cell: self.state.cell(&trial.cell)?.clone(),
            keep: self.state.keep(trial),
            resume: self.resume_for(trial, entry.life.holder()?),
        })
    }

    /// The trial that a slot should get: the first in line that did not fail there, or that has nowhere else to go.
    fn next_for(&self, holder: &Holder) -> Option<&TrialId> {
        let class = self.class_of(holder)?;
        self.state.queue().line_for(class).find(|trial| {
            let failed_here = self.state.trial(trial).is_some_and(|t| t.failed_on.contains(holder));
            !failed_here || !self.may_run_elsewhere(trial, holder)
        })
    }

    /// Whether another connected slot could run the trial, and has not failed at it.
    fn may_run_elsewhere(&self, trial: &TrialId, here: &Holder) -> bool {
        let failed_on = |holder: &Holder| self.state.trial(trial).is_some_and(|t| t.failed_on.contains(holder));
        self.agents.iter().any(|(agent, known)| {
            known.slots.iter().any(|s| {
                let holder = Holder { agent: agent.clone(), slot: s.slot.clone() };
                holder != *here && trial.hardware.as_ref().is_none_or(|h| *h == s.hardware) && !failed_on(&holder)
            })
        })
    }

    /// Grants work to parked questions, oldest first, and answers those whose time is over.
    pub(super) fn serve_parked(&mut self) {
        let mut still = Vec::new();
        for parked in std::mem::take(&mut self.parked) {
            let next = self.next_for(&parked.holder).cloned();
            match next.and_then(|trial| self.state.trial(&trial).map(|t| (t.life.next_attempt(), trial))) {
                Some((attempt, trial)) => {
                    let holder = parked.holder.clone();
                    self.record(Event::LeaseGranted { trial: trial.clone(), attempt, holder });
                    self.progress.insert(trial.clone(), (Progress::default(), self.now.mono));
                    let offer = self.offer(&trial);
                    self.reply(parked.token, Reply::Leased(offer));
                }
                None if parked.until <= self.now.mono => self.reply(parked.token, Reply::Leased(None)),
                None => still.push(parked),
            }
        }
        self.parked = still;
    }

    #[allow(clippy::too_many_arguments, reason = "a report has that many parts")]
    pub(super) fn report(
        &mut self,
        holder: &Holder,
        trial: TrialId,
        attempt: Attempt,
        class: OutcomeClass,
        reason: String,
        record: Vec<u8>,
        seal: Seal,
    ) -> Reported {
        let Some(entry) = self.state.trial(&trial) else { return Reported::NotWanted };
        let life = &entry.life;
        if life.may_resume(attempt) && self.state.held_by(holder).is_none() {
            // Given up too early, and nobody else has it: its work counts.
            self.record(Event::LeaseResumed { trial: trial.clone(), attempt, holder: holder.clone() });
        } else if !life.is_held(holder, attempt) {
            let recorded = life.state == TrialState::Finished && entry.class != Some(OutcomeClass::Lost);
            if life.attempt == Some(attempt) && recorded {
                return Reported::AlreadyRecorded;
            }
            if class.is_result() {
                self.record(Event::ReportSuperseded { trial, attempt, record });
                return Reported::Superseded;
            }
            return Reported::NotWanted;
        }
        self.progress.remove(&trial);
        match class {
            // What happened to the machine says nothing about the cell: try again, but not for ever.
            OutcomeClass::Crashed if self.may_lose_again(&trial) => self.lose(&trial, Release::Crashed, &reason),
            // What is wrong may be that machine's copy of the data.
            OutcomeClass::BadInput if self.may_run_elsewhere(&trial, holder) => {
                self.record(Event::LeaseReleased { trial, attempt, cause: Release::Unfit, reason });
            }
            OutcomeClass::Cancelled => {
                self.record(Event::LeaseReleased { trial, attempt, cause: Release::Returned, reason });
            }
            _ => self.record(Event::TrialRecorded { trial, attempt, class, record, seal }),
        }
        Reported::Recorded
    }

    pub(super) fn release(&mut self, holder: &Holder, trial: &TrialId, attempt: Attempt, reason: String) {
        if self.state.trial(trial).is_some_and(|t| t.life.is_held(holder, attempt)) {
            self.progress.remove(trial);
            self.record(Event::LeaseReleased { trial: trial.clone(), attempt, cause: Release::Returned, reason });
        }
    }

    fn may_lose_again(&self, trial: &TrialId) -> bool {
        self.state.trial(trial).is_some_and(|t| t.life.losses + 1 < self.terms.max_losses)
    }

    /// Takes a lease back from an agent (or worker) that is gone; the trial waits again, or is given up.
    fn lose(&mut self, trial: &TrialId, cause: Release, reason: &str) {
        let Some(attempt) = self.state.trial(trial).and_then(|t| t.life.attempt) else { return };
        let again = self.may_lose_again(trial);
        self.progress.remove(trial);
        self.record(Event::LeaseReleased { trial: trial.clone(), attempt, cause, reason: reason.to_owned() });
        if !again {
            let losses = self.state.trial(trial).map_or(0, |t| t.life.losses);
            self.record(Event::TrialGivenUp { trial: trial.clone(), losses, reason: reason.to_owned() });
        }
    }

    pub(super) fn tick(&mut self) {
        // A coordinator that was stopped for a while (Ctrl-Z, a sleeping machine, a stalled disk) has not heard its
        // agents, which says nothing about them: as after a restart, leases get their full time anew.
        let before = self.ticked.replace(self.now.mono).unwrap_or(self.now.mono);
        // Ticks come every half second; short leases must not make an ordinary one look like a stop.
        if self.now.mono.0.saturating_sub(before.0) > self.terms.renew_every_ms.max(STOPPED_MS) {
            self.state.renew_all(self.now.mono);
            self.agents.values_mut().for_each(|a| a.heard = self.now.mono);
        }
        let lost: Vec<(TrialId, String)> = self
            .state
            .leases()
            .filter(|(_, trial)| self.state.trial(trial).is_some_and(|t| t.life.is_lost(&self.terms, self.now.mono)))
            .map(|(holder, trial)| (trial.clone(), format!("agent {} fell silent", holder.agent)))
            .collect();
        for (trial, reason) in lost {
            self.lose(&trial, Release::Silent, &reason);
        }
        self.forget_saves();
        // An agent that holds nothing and says nothing is no longer here.
        let (now, silence) = (self.now.mono, self.terms.time_ms * 2);
        let busy: HashSet<AgentId> = self.state.leases().map(|(h, _)| h.agent.clone()).collect();
        self.agents.retain(|id, a| busy.contains(id) || now.0.saturating_sub(a.heard.0) < silence);
    }
}

fn attempt(entry: &super::TrialEntry) -> String {
    entry.life.attempt.map_or_else(|| "none".to_owned(), |a| a.to_string())
}
