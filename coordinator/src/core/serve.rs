//! Questions for work that wait, and giving them some. What happens wakes the questions that it may concern, and no
//! others: most inputs give nobody any work.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use fleet_common::id::{AgentId, TrialId};
use fleet_common::lease::{Holder, Millis};

use super::{Core, Event, Offer, Progress, Reply, Token};
use crate::scheduler::{Affinity as _, Choice, Means, View, choose};

/// A question that waits for work.
#[derive(Debug, Clone, PartialEq)]
struct Parked {
    token: Token,
    until: Millis,
}

/// All that wait: a slot asks once at a time.
#[derive(Debug, Default)]
pub(super) struct Questions {
    parked: BTreeMap<Holder, Parked>,
    due: BTreeSet<(Millis, Holder)>,
    /// Everything may have changed for everyone.
    all: bool,
    /// These slots ask for the first time.
    slots: BTreeSet<Holder>,
    /// These trials wait again.
    trials: Vec<TrialId>,
}

impl Questions {
    pub(super) fn wake_all(&mut self) {
        self.all = true;
    }

    /// Wakes whom an event may concern.
    pub(super) fn wake_by(&mut self, event: &Event) {
        match event {
            Event::LeaseReleased { trial, .. } => self.trials.push(trial.clone()),
            Event::CampaignSubmitted(_)
            | Event::CampaignCancelled { .. }
            | Event::TrialRetried { .. }
            | Event::SlotsDrained { .. }
            | Event::SlotsUndrained { .. } => self.all = true,
            _ => {}
        }
    }

    fn park(&mut self, token: Token, holder: Holder, until: Millis) {
        self.slots.insert(holder.clone());
        self.due.insert((until, holder.clone()));
        self.parked.insert(holder, Parked { token, until });
    }

    fn take(&mut self, holder: &Holder) -> Option<Token> {
        let parked = self.parked.remove(holder)?;
        self.due.remove(&(parked.until, holder.clone()));
        Some(parked.token)
    }

    pub(super) fn forget(&mut self, token: Token) {
        let holder = self.parked.iter().find(|(_, p)| p.token == token).map(|(holder, _)| holder.clone());
        holder.and_then(|holder| self.take(&holder));
    }

    /// Slots that have asked and wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Holder> {
        self.parked.keys()
    }
}

impl Core {
    pub(super) fn pull(&mut self, token: Token, holder: Holder, wait_ms: u64) {
        if let Some(agent) = self.agents.get_mut(&holder.agent) {
            agent.heard = self.now.mono;
        }
        // A slot asks once at a time: an older question of the same slot lost its asker, or will be asked again.
        if let Some(older) = self.questions.take(&holder) {
            self.reply(older, Reply::Leased(None));
        }
        // The answer to an earlier question got lost: the slot holds a lease that it does not know of. Of an agent that has
        // not introduced itself nobody knows the hardware, and so not what the trial goes on from.
        let is_known = self.agents.contains_key(&holder.agent);
        if is_known && let Some(offer) = self.state.held_by(&holder).and_then(|trial| self.offer(trial)) {
            self.state.renew(&offer.trial, &holder, self.now.mono);
            return self.reply(token, Reply::Leased(Some(offer)));
        }
        self.questions.park(token, holder, self.now.mono + wait_ms);
    }

    /// Answers the questions of an agent's slots, so that they are asked again; a question that is only forgotten would
    /// be waited for without end.
    pub(super) fn ask_again(&mut self, agent: &AgentId) {
        let of: Vec<Holder> = self.questions.waiting().filter(|h| h.agent == *agent).cloned().collect();
        for holder in of {
            if let Some(token) = self.questions.take(&holder) {
                self.reply(token, Reply::Leased(None));
            }
        }
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

    /// What the scheduler looks at.
    pub(super) fn view(&self) -> View<'_> {
        View { queue: self.state.queue(), fleet: &self.fleet, estimates: self.state.estimates() }
    }

    /// Grants work to the questions that were woken, then answers those whose time is over. Where several slots could
    /// have a trial, the one with the least memory gets it: the larger ones are kept for what needs them. Of equal ones,
    /// the one that it prefers.
    pub(super) fn serve(&mut self) {
        let mut woken = self.woken();
        let room = |holder: &Holder| self.fleet.servers().get(holder).map_or(0, |s| s.memory_bytes);
        if woken.len() > 1 && !self.state.queue().is_empty() {
            self.shares.settle(self.state.queue());
            let unwelcome = |holder: &Holder| Reverse(self.would_be_preferred(holder));
            woken.sort_by_cached_key(|holder| (room(holder), unwelcome(holder), holder.clone()));
        }
        for holder in woken {
            if self.state.queue().is_empty() {
                break;
            }
            self.grant(&holder);
        }
        while let Some((until, holder)) = self.questions.due.first().filter(|(until, _)| *until <= self.now.mono) {
            let _ = until;
            let holder = holder.clone();
            if let Some(token) = self.questions.take(&holder) {
                self.reply(token, Reply::Leased(None));
            }
        }
    }

    /// How much what a slot would take now prefers it.
    fn would_be_preferred(&self, holder: &Holder) -> u32 {
        let preferences = self.preferences();
        if preferences.is_empty() {
            return 0;
        }
        let busy = || self.busy();
        let means = Means { shares: &self.shares, affinity: &preferences, busy: &busy };
        choose(self.view(), means, holder).map_or(0, |choice| preferences.score(choice.trial, holder))
    }

    fn woken(&mut self) -> Vec<Holder> {
        let (all, slots) = (std::mem::take(&mut self.questions.all), std::mem::take(&mut self.questions.slots));
        let trials = std::mem::take(&mut self.questions.trials);
        if all {
            return self.questions.waiting().cloned().collect();
        }
        if trials.is_empty() {
            // Who just asked, and nobody else: this is what most inputs come to, and hundreds may wait.
            return slots.into_iter().filter(|holder| self.questions.parked.contains_key(holder)).collect();
        }
        let View { queue, fleet, estimates } = self.view();
        let places: Vec<_> = trials.iter().filter_map(|trial| self.state.place(trial)).collect();
        let concerned = |holder: &&Holder| {
            slots.contains(*holder)
                || places.iter().any(|p| fleet.may_take(estimates, queue.account(&p.account), &p.group, holder))
        };
        self.questions.waiting().filter(concerned).cloned().collect()
    }

    /// Grants a waiting slot what it should have, if there is something.
    fn grant(&mut self, holder: &Holder) {
        self.shares.settle(self.state.queue());
        let (busy, preferences) = (|| self.busy(), self.preferences());
        let means = Means { shares: &self.shares, affinity: &preferences, busy: &busy };
        let choice = choose(self.view(), means, holder);
        let Some(Choice { trial, account, seconds }) = choice else { return };
        let (trial, account) = (trial.clone(), account.clone());
        let Some(attempt) = self.state.trial(&trial).map(|t| t.life.next_attempt()) else { return };
        let Some(token) = self.questions.take(holder) else { return };
        self.shares.charge(self.state.queue(), &account, seconds);
        self.record(Event::LeaseGranted { trial: trial.clone(), attempt, holder: holder.clone() });
        self.progress.insert(trial.clone(), (Progress::default(), self.now.mono));
        let offer = self.offer(&trial);
        self.reply(token, Reply::Leased(offer));
    }
}
