//! What agents ask for: work, renewals, the acceptance of what they have done.

use std::collections::HashSet;

use fleet_common::id::{AgentId, Attempt, TrialId};
use fleet_common::lease::{CALLED_OFF, FINISHED, Holder, Release, TrialState, taken, waits};
use fleet_common::record::OutcomeClass;
use fleet_common::telemetry::Seal;

use super::{Agent, Claim, Core, Event, Progress, Reply, Reported, Token, Verdict};
use crate::scheduler::Figures;

/// A coordinator that has not looked for so long was stopped, or its machine was.
const STOPPED_MS: u64 = 2_000;

impl Core {
    /// Settles both sides' views: what the agent claims is judged, and what it should hold but does not claim is taken
    /// back at once, without waiting for the lease's time.
    pub(super) fn register(&mut self, token: Token, agent: AgentId, known: Agent, held: Vec<Claim>) {
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
        // Questions of the agent's slots that came before it was known.
        self.ask_again(&agent);
        self.quarantine(&agent, &known.slots);
        self.agents.insert(agent.clone(), known);
        self.refresh_fleet();
        let verdicts = held.into_iter().map(|claim| self.judge(&agent, claim)).collect();
        self.reply(token, Reply::Registered(verdicts));
    }

    /// Renews a claimed lease, lets its former holder take it up again, or says why neither can be.
    fn judge(&mut self, agent: &AgentId, claim: Claim) -> Verdict {
        let holder = Holder { agent: agent.clone(), slot: claim.slot.clone() };
        let keep = match self.state.trial(&claim.trial) {
            None => Err("the coordinator does not know this trial".to_owned()),
            Some(_) if self.is_anothers(agent, &claim.trial, claim.attempt) => Err(super::ANOTHERS.to_owned()),
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
                TrialState::Finished => FINISHED.to_owned(),
                TrialState::Leased { holder, .. } => taken(attempt(t), &holder.agent),
                TrialState::Waiting => waits(attempt(t)),
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

    /// Whether another connected slot could run the trial, and has not failed at it.
    fn may_run_elsewhere(&self, trial: &TrialId, here: &Holder) -> bool {
        let view = self.view();
        let place = self.state.place(trial);
        place.is_some_and(|p| view.fleet.elsewhere(view.estimates, view.queue.account(&p.account), &p.group, here))
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
        figures: Figures,
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
            // The device is at fault, not the trial.
            OutcomeClass::Crashed if self.is_quarantined(holder) => {
                self.record(Event::LeaseReleased { trial, attempt, cause: Release::Unfit, reason });
            }
            // What happened to the machine says nothing about the cell: try again, but not for ever.
            OutcomeClass::Crashed if self.may_lose_again(&trial) => self.lose(&trial, Release::Crashed, &reason),
            // What is wrong may be that machine's copy of the data.
            OutcomeClass::BadInput if self.may_run_elsewhere(&trial, holder) => {
                self.record(Event::LeaseReleased { trial, attempt, cause: Release::Unfit, reason });
            }
            OutcomeClass::Cancelled => {
                self.record(Event::LeaseReleased { trial, attempt, cause: Release::Returned, reason });
            }
            _ => {
                let expected = |core: &Self, trial| core.state.estimates().size(core.state.kind(trial));
                let before = expected(self, &trial);
                self.record(Event::TrialRecorded { trial: trial.clone(), attempt, class, record, seal, figures });
                if expected(self, &trial) < before {
                    // What seemed too large for a slot may fit it.
                    self.questions.wake_all();
                }
            }
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
        let before = self.agents.len();
        self.agents.retain(|id, a| busy.contains(id) || now.0.saturating_sub(a.heard.0) < silence);
        if self.agents.len() != before {
            self.forget_contents();
            self.refresh_fleet();
        }
    }
}

fn attempt(entry: &super::TrialEntry) -> String {
    entry.life.attempt.map_or_else(|| "none".to_owned(), |a| a.to_string())
}
