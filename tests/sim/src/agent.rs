//! An agent's process: the real half, with a disk that outlives it, workers that take a while, and a network.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fleet_agent::half::{Effect, Ended, Half, Held, Input, Setup};
use fleet_common::id::{AgentId, Attempt, HardwareClass, SlotId, TrialId};
use fleet_common::lease::Holder;
use fleet_common::record::OutcomeClass;
use fleet_content::Item;
use fleet_coordinator::core::{Reply, Reported};
use rand::{Rng, RngExt as _};

use crate::campaigns::CLASSES;
use crate::check::made_by;
use crate::contract::{Record, Request, in_words, short};
use crate::faults::Fault;
use crate::queue::At;
use crate::world::{Call, Happening, World};

/// What an agent's process does next.
#[derive(Debug)]
pub(crate) enum Doing {
    /// A question is answered, or known not to be.
    Answered(u64, Option<Box<Reply>>),
    /// A question has waited long enough.
    Patience(u64),
    /// The half has something due.
    Timer(At),
    /// A worker comes to its end by itself.
    WorkerEnds(u64),
    /// A worker has ended because it was told to.
    WorkerStopped(u64),
    /// A record is in the outbox, or the disk refused it.
    Kept(Held, bool),
    Tell(Input),
    /// The daemon has looked what is in its cache.
    Looked,
}

/// A worker process.
#[derive(Debug, Clone)]
struct Worker {
    number: u64,
    held: Held,
    stop: Option<String>,
}

/// What a daemon has in memory.
#[derive(Debug)]
struct Daemon {
    half: Half,
    started: At,
    /// How long its machine has slept since.
    slept: u64,
    /// When the half is to be woken.
    timer: Option<At>,
    workers: BTreeMap<SlotId, Worker>,
    records: BTreeMap<Held, Record>,
    /// Records that the disk refused.
    refused: BTreeSet<Held>,
    pulls: BTreeMap<SlotId, u64>,
}

/// An agent: its process, if it is up, and its disk.
#[derive(Debug)]
pub(crate) struct Agent {
    pub id: AgentId,
    slots: Vec<(SlotId, HardwareClass)>,
    renew_every: Duration,
    cool_down: Duration,
    pub life: u32,
    daemon: Option<Daemon>,
    outbox: BTreeMap<Held, Record>,
    /// Data sets and weights on its disk.
    pub cache: BTreeSet<Item>,
    workers: u64,
    /// Its cable is pulled out.
    pub cut: bool,
    /// The last time at which something went wrong for it.
    pub trouble: At,
    /// It is killed before or after so many of its effects.
    pub crash_in: Option<u32>,
    paused: Option<At>,
    held_back: Vec<Doing>,
}

impl Agent {
    pub(crate) fn new(n: usize, random: &mut impl Rng) -> Self {
        let slots = (0..random.random_range(1..=2))
            .map(|slot| {
                // The first two agents have a class each, so that every trial finds its hardware.
                let class = if n < CLASSES.len() && slot == 0 { n } else { random.random_range(0..CLASSES.len()) };
                (format!("cuda:{slot}").parse().expect("a slot"), CLASSES[class].parse().expect("a class"))
            })
            .collect();
        Self {
            id: format!("agent-{n}").parse().expect("an id"),
            slots,
            renew_every: Duration::from_secs(random.random_range(1..=2)),
            cool_down: Duration::from_secs(random.random_range(0..=2)),
            life: 0,
            daemon: None,
            outbox: BTreeMap::new(),
            cache: BTreeSet::new(),
            workers: 0,
            cut: false,
            trouble: 0,
            crash_in: None,
            paused: None,
            held_back: Vec::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.daemon.is_some()
    }

    /// Up, at work and connected.
    pub(crate) fn is_well(&self) -> bool {
        self.is_up() && self.paused.is_none() && !self.cut
    }

    /// Whether a worker of its daemon is at work on an attempt.
    pub(crate) fn is_at_work(&self, trial: &TrialId, attempt: Attempt) -> bool {
        let mut workers = self.daemon.iter().flat_map(|d| d.workers.values());
        workers.any(|w| w.held.trial == *trial && w.held.attempt == attempt)
    }

    /// Whether it has a worker or a record.
    pub(crate) fn has_something(&self) -> bool {
        !self.outbox.is_empty() || self.daemon.as_ref().is_some_and(|d| !d.workers.is_empty() || !d.records.is_empty())
    }
}

/// A data set; all trials need the first.
fn item(n: u64) -> Item {
    Item::Dataset(n.to_string().repeat(64).parse().expect("a fingerprint"))
}

impl Daemon {
    fn mono(&self, now: At) -> Duration {
        Duration::from_millis(now - self.started - self.slept)
    }
}

impl World {
    pub(crate) fn start_agent(&mut self, agent: usize) {
        let seed = self.random.next_u64();
        let a = &mut self.agents[agent];
        if a.is_up() {
            return;
        }
        a.life += 1;
        a.trouble = self.now;
        let late: Vec<Held> = a.outbox.keys().cloned().collect();
        let setup = Setup {
            slots: a.slots.iter().map(|(slot, _)| slot.clone()).collect(),
            introductions: u64::from(a.life) << 32,
            content: a.cache.clone(),
            late: late.clone(),
            cool_down: a.cool_down,
            renew_every: a.renew_every,
            seed,
        };
        let mut half = Half::new(setup);
        let effects = half.start();
        a.daemon = Some(Daemon {
            half,
            started: self.now,
            slept: 0,
            timer: None,
            workers: BTreeMap::new(),
            records: a.outbox.clone(),
            refused: BTreeSet::new(),
            pulls: BTreeMap::new(),
        });
        self.say(|w| format!("{} starts with {} records", w.agents[agent].id, late.len()));
        self.perform(agent, effects);
    }

    /// The daemon is gone, and its workers with it.
    pub(crate) fn crash_agent(&mut self, agent: usize, how: &'static str) {
        if self.agents[agent].daemon.is_none() {
            return;
        }
        self.tally.count("agents killed");
        self.say(|w| format!("{} is {how}", w.agents[agent].id));
        self.bury(agent);
    }

    /// The daemon's process ends, whatever ended it; another one starts after a while.
    fn bury(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        let life = a.life;
        (a.daemon, a.crash_in, a.paused) = (None, None, None);
        a.held_back.clear();
        a.trouble = self.now;
        // Its connections are closed.
        let calls = self.calls.iter().filter(|(_, call)| call.agent == agent && call.life == life);
        for call in calls.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.forget(call);
        }
        let down = if self.calm.is_some() { 2_000 } else { self.terms.time_ms * 3 / 2 };
        let back = self.now + self.random.random_range(100..down);
        self.queue.put(back, Happening::AgentStarts(agent));
    }

    pub(crate) fn end_agent(&mut self, agent: usize) {
        if self.agents[agent].daemon.is_some() {
            self.tally.count("agents asked to end");
            self.say(|w| format!("{} is asked to end", w.agents[agent].id));
            let life = self.agents[agent].life;
            self.queue.put(self.now, Happening::Agent(agent, life, Doing::Tell(Input::Stop)));
        }
    }

    pub(crate) fn pause_agent(&mut self, agent: usize, ms: u64, sleeps: bool) {
        let a = &mut self.agents[agent];
        if a.daemon.is_none() || a.paused.is_some() {
            return;
        }
        a.paused = Some(self.now);
        let life = a.life;
        self.tally.count(if sleeps { "agents' machines slept" } else { "agents paused" });
        self.say(|w| format!("{} is stopped for {ms} ms{}", w.agents[agent].id, if sleeps { ", asleep" } else { "" }));
        self.queue.put(self.now + ms, Happening::AgentResumes(agent, life, sleeps));
    }

    pub(crate) fn resume_agent(&mut self, agent: usize, life: u32, slept: bool) {
        let now = self.now;
        let a = &mut self.agents[agent];
        let Some(since) = a.paused.take_if(|_| a.life == life) else { return };
        a.trouble = a.trouble.max(now);
        if let Some(daemon) = a.daemon.as_mut().filter(|_| slept) {
            daemon.slept += now - since;
        }
        for doing in std::mem::take(&mut a.held_back) {
            self.queue.put(now, Happening::Agent(agent, life, doing));
        }
        self.say(|w| format!("{} goes on", w.agents[agent].id));
    }

    pub(crate) fn agent_does(&mut self, agent: usize, life: u32, doing: Doing) {
        let a = &mut self.agents[agent];
        if a.life != life || a.daemon.is_none() {
            return;
        }
        if a.paused.is_some() {
            return a.held_back.push(doing);
        }
        let Some(input) = self.as_input(agent, doing) else { return };
        let now = self.now;
        let Some(daemon) = &mut self.agents[agent].daemon else { return };
        let effects = daemon.half.handle(input, daemon.mono(now));
        self.perform(agent, effects);
    }

    /// What the half is told; `None` if nothing.
    fn as_input(&mut self, agent: usize, doing: Doing) -> Option<Input> {
        match doing {
            Doing::Tell(input) => Some(input),
            Doing::Looked => Some(Input::Content(self.agents[agent].cache.clone())),
            Doing::Answered(call, reply) => {
                let Call { request, .. } = self.calls.remove(&call)?;
                self.received(agent, &request, reply.as_deref());
                Some(request.answered(reply.as_deref(), self.terms.renew_every_ms))
            }
            Doing::Patience(call) => {
                let Call { request, .. } = self.calls.get(&call)?.clone();
                self.forget(call);
                self.tally.count("questions given up");
                self.say(|w| format!("{} gives up its {}", w.agents[agent].id, request.name()));
                Some(request.answered(None, self.terms.renew_every_ms))
            }
            Doing::Timer(at) => {
                let daemon = self.agents[agent].daemon.as_mut()?;
                daemon.timer.take_if(|timer| *timer == at)?;
                Some(Input::Time)
            }
            Doing::Kept(held, durable) => {
                let a = &mut self.agents[agent];
                let record = a.daemon.as_ref()?.records.get(&held)?.clone();
                if durable {
                    self.check.kept(&held.trial, held.attempt, record.class, &record.bytes);
                    a.outbox.insert(held.clone(), record);
                } else {
                    a.daemon.as_mut()?.refused.insert(held.clone());
                    self.tally.count("records refused by an agent's disk");
                }
                Some(Input::Kept(held))
            }
            Doing::WorkerEnds(number) => {
                let worker = self.take_worker(agent, number)?;
                let record = self.record(agent, &worker.held);
                let fit = !matches!(record.class, OutcomeClass::Crashed | OutcomeClass::BadInput);
                self.say(|w| {
                    format!("{}: {} ends: {}", w.agents[agent].id, short(&worker.held.trial), record.class.name())
                });
                self.agents[agent].daemon.as_mut()?.records.insert(worker.held.clone(), record);
                Some(Input::Ended(worker.held, Ended::Record { fit }))
            }
            Doing::WorkerStopped(number) => {
                let worker = self.take_worker(agent, number)?;
                self.tally.count("workers stopped");
                Some(Input::Ended(worker.held, Ended::Stopped(worker.stop?)))
            }
        }
    }

    fn take_worker(&mut self, agent: usize, number: u64) -> Option<Worker> {
        let workers = &mut self.agents[agent].daemon.as_mut()?.workers;
        let slot = workers.iter().find(|(_, worker)| worker.number == number).map(|(slot, _)| slot.clone())?;
        workers.remove(&slot)
    }

    /// Notes what an agent was told.
    fn received(&mut self, agent: usize, request: &Request, reply: Option<&Reply>) {
        let Some(reply) = reply else { return };
        let id = self.agents[agent].id.clone();
        self.say(|_| format!("{id} hears: {}", in_words(reply)));
        match (request, reply) {
            (Request::Pull(slot), Reply::Leased(Some(offer))) => {
                let holder = Holder { agent: id, slot: slot.clone() };
                self.check.received(&offer.trial, offer.attempt, holder);
            }
            (Request::Report(held, record), Reply::Reported(reported)) => {
                self.tally.count(match reported {
                    Reported::Recorded => "reports: recorded",
                    Reported::AlreadyRecorded => "reports: already recorded",
                    Reported::Superseded => "reports: superseded",
                    Reported::NotWanted => "reports: not wanted",
                });
                self.check.acknowledged(&held.trial, record.class, *reported);
            }
            _ => {}
        }
    }

    /// What a worker that came to its end has made.
    fn record(&mut self, agent: usize, held: &Held) -> Record {
        let fails = self.may(Fault::Workers) && self.chance(0.15);
        let class = match (fails, self.random.random_range(0..10)) {
            (true, 0..7) => OutcomeClass::Crashed,
            (true, _) => OutcomeClass::BadInput,
            (false, 0) => OutcomeClass::DoesNotFit,
            (false, 1) => OutcomeClass::Diverged,
            (false, _) => OutcomeClass::Completed,
        };
        let mut bytes = made_by(&held.trial, held.attempt, &self.agents[agent].id, &held.slot);
        bytes.extend_from_slice(format!("{} at {}", class.name(), self.now).as_bytes());
        Record { class, bytes }
    }

    /// Does what the half says, and may be killed before or after any part of it.
    fn perform(&mut self, agent: usize, effects: Vec<Effect>) {
        for effect in effects {
            if self.is_struck(agent) {
                return;
            }
            self.effect(agent, effect);
        }
        if self.is_struck(agent) {
            return;
        }
        let now = self.now;
        let a = &mut self.agents[agent];
        let Some(daemon) = &mut a.daemon else { return };
        if daemon.half.is_over() {
            self.say(|w| format!("{} ends", w.agents[agent].id));
            return self.bury(agent);
        }
        let wake = daemon.half.wake().map(|wake| {
            let wait = wake.saturating_sub(daemon.mono(now));
            now + wait.as_nanos().div_ceil(1_000_000) as u64
        });
        if let Some(at) = wake.filter(|at| daemon.timer.is_none_or(|timer| timer > *at || timer < now)) {
            daemon.timer = Some(at);
            self.queue.put(at, Happening::Agent(agent, a.life, Doing::Timer(at)));
        }
    }

    fn is_struck(&mut self, agent: usize) -> bool {
        match &mut self.agents[agent].crash_in {
            Some(0) => {
                self.crash_agent(agent, "killed between two effects");
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn effect(&mut self, agent: usize, effect: Effect) {
        let life = self.agents[agent].life;
        let soon = |w: &mut Self, most: u64, doing: Doing| {
            let at = w.now + w.random.random_range(1..most);
            w.queue.put(at, Happening::Agent(agent, life, doing));
        };
        match effect {
            Effect::Introduce(number, held, here) => {
                let slots = self.agents[agent].slots.clone();
                self.ask(agent, Request::Introduce { number, slots, held, here });
            }
            Effect::Renew(held, told) => {
                self.ask(agent, Request::Renew(held, told));
            }
            Effect::Prepare(slot) => soon(self, 3_000, Doing::Tell(Input::Prepared(slot))),
            Effect::Pull(slot) => {
                let call = self.ask(agent, Request::Pull(slot.clone()));
                if let Some(daemon) = &mut self.agents[agent].daemon {
                    daemon.pulls.insert(slot, call);
                }
            }
            Effect::Withdraw(slot) => {
                let call = self.agents[agent].daemon.as_mut().and_then(|d| d.pulls.remove(&slot));
                call.into_iter().for_each(|call| self.forget(call));
            }
            Effect::Run(held) => self.run_worker(agent, held),
            Effect::Stop(held, reason) => {
                self.say(|w| format!("{} stops {}: {reason}", w.agents[agent].id, short(&held.trial)));
                let workers = self.agents[agent].daemon.as_mut().map(|d| &mut d.workers);
                if let Some(worker) = workers.and_then(|w| w.get_mut(&held.slot)).filter(|w| w.held == held) {
                    worker.stop = Some(reason);
                    let number = worker.number;
                    soon(self, 20_000, Doing::WorkerStopped(number));
                }
            }
            Effect::Keep(held) => {
                let durable = !self.disk_refuses();
                soon(self, 100, Doing::Kept(held, durable));
            }
            Effect::Report(held) => {
                let Some(daemon) = &self.agents[agent].daemon else { return };
                if !self.agents[agent].outbox.contains_key(&held) && !daemon.refused.contains(&held) {
                    self.check.violated(9, format!("{} is reported before it is durable", short(&held.trial)));
                }
                if let Some(record) = daemon.records.get(&held).cloned() {
                    self.ask(agent, Request::Report(held, record));
                }
            }
            Effect::Settle(held) => {
                let a = &mut self.agents[agent];
                a.outbox.remove(&held);
                a.daemon.iter_mut().for_each(|d| drop(d.records.remove(&held)));
            }
            Effect::Release(held, reason) => {
                self.ask(agent, Request::Release(held, reason));
            }
        }
    }

    fn run_worker(&mut self, agent: usize, held: Held) {
        let life = self.agents[agent].life;
        if self.disk_refuses() {
            let refused = Input::Ended(held, Ended::NotBegun("the agent's disk refuses".into()));
            return self.queue.put(self.now, Happening::Agent(agent, life, Doing::Tell(refused)));
        }
        let takes = if self.random.random_bool(0.1) { 80_000 } else { 20_000 };
        let ends = self.now + self.random.random_range(500..takes);
        let a = &mut self.agents[agent];
        a.workers += 1;
        let worker = Worker { number: a.workers, held: held.clone(), stop: None };
        let number = worker.number;
        let before = a.daemon.as_mut().and_then(|d| d.workers.insert(held.slot.clone(), worker));
        if let Some(before) = before {
            self.check.violated(8, format!("{} {} has two workers: {before:?}", self.agents[agent].id, held.slot));
        }
        self.queue.put(ends, Happening::Agent(agent, life, Doing::WorkerEnds(number)));
        self.fetch(agent);
    }

    /// What the trial needs is fetched, and something else makes room for it.
    fn fetch(&mut self, agent: usize) {
        let (takes, gone) = (self.random.random_range(1..5_000), self.random.random_range(0..3));
        let a = &mut self.agents[agent];
        let before = a.cache.clone();
        a.cache.remove(&item(gone));
        a.cache.insert(item(a.workers % 3));
        a.cache.insert(item(0));
        if a.cache != before {
            self.tally.count("changes of what agents have");
            let life = self.agents[agent].life;
            self.queue.put(self.now + takes, Happening::Agent(agent, life, Doing::Looked));
        }
    }
}
