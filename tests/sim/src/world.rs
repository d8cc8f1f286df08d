//! One world: a coordinator, agents, a network between them, people, and faults, all from one seed.

use std::collections::BTreeMap;

use fleet_common::lease::LeaseTerms;
use fleet_coordinator::core::{Input, Token};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::agent::{Agent, Doing};
use crate::campaigns;
use crate::check::{Check, clock};
use crate::contract::Request;
use crate::coordinator::{Coordinator, Point, Work};
use crate::faults::{Fault, Faults};
use crate::queue::{At, Queue};
use crate::tally::Tally;

/// No world needs as many steps; one that does goes round in circles.
const MOST: u64 = 2_000_000;

/// Something that is going to happen. What belongs to a life that is over does not happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Coordinator(u32, Work),
    CoordinatorStarts,
    CoordinatorResumes(u32),
    Agent(usize, u32, Doing),
    AgentStarts(usize),
    AgentResumes(usize, u32, bool),
    Healed(usize),
    /// Something goes wrong, or somebody wants something.
    Fault,
    /// From here on nothing goes wrong any more.
    Calm,
}

/// A question that an agent waits for.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub agent: usize,
    pub life: u32,
    pub request: Request,
}

/// One world.
pub(crate) struct World {
    pub random: ChaCha8Rng,
    pub faults: Faults,
    pub now: At,
    pub queue: Queue<Happening>,
    pub check: Check,
    pub tally: Tally,
    pub terms: LeaseTerms,
    pub coordinator: Coordinator,
    pub agents: Vec<Agent>,
    pub calls: BTreeMap<u64, Call>,
    pub asked: u64,
    /// Faults are over since then.
    pub calm: Option<At>,
    /// Share of messages that are lost.
    loss: f64,
    /// Share of messages that take long.
    slow: f64,
    log: Option<Vec<String>>,
    pub happened: u64,
    /// When it is looked whether all is done.
    look_at: At,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, log: bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let times = [(60_000, 15_000), (60_000, 15_000), (20_000, 5_000), (8_000, 2_000)];
        let (time_ms, renew_every_ms) = times[random.random_range(0..times.len())];
        let terms = LeaseTerms { time_ms, renew_every_ms, ..LeaseTerms::default() };
        let count = random.random_range(2..=4);
        let agents = (0..count).map(|n| Agent::new(n, &mut random)).collect();
        let heavy = random.random_bool(0.3);
        let share =
            |random: &mut ChaCha8Rng, on: bool, most: f64| if on { random.random_range(0.0..most) } else { 0.0 };
        let loss = share(&mut random, faults.has(Fault::Loss), if heavy { 0.3 } else { 0.05 });
        let slow = share(&mut random, faults.has(Fault::Delay), if heavy { 0.2 } else { 0.03 });
        Self {
            faults,
            now: 0,
            queue: Queue::new(),
            check: Check::default(),
            tally: Tally::default(),
            coordinator: Coordinator::new(),
            agents,
            calls: BTreeMap::new(),
            asked: 0,
            calm: None,
            loss,
            slow,
            log: log.then(Vec::new),
            happened: 0,
            look_at: 0,
            terms,
            random,
        }
    }

    /// Lets everything happen; then what was violated, if anything.
    pub(crate) fn run(&mut self) -> Option<String> {
        self.say(|w| {
            format!("terms: {:?}, {} agents, loss {:.2}, slow {:.2}", w.terms, w.agents.len(), w.loss, w.slow)
        });
        self.queue.put(0, Happening::CoordinatorStarts);
        for agent in 0..self.agents.len() {
            let at = self.random.random_range(0..3_000);
            self.queue.put(at, Happening::AgentStarts(agent));
        }
        self.queue.put(1_000, Happening::Fault);
        let faults_end = self.random.random_range(60_000..480_000);
        self.queue.put(faults_end, Happening::Calm);
        while self.check.violation().is_none()
            && let Some((at, happening)) = self.queue.next()
        {
            self.now = at;
            self.happened += 1;
            if self.happened > MOST {
                self.check.violated(11, format!("after {MOST} things that happened there is no end"));
            }
            self.happen(happening);
            if self.calm.is_some() && self.now >= self.look_at && self.is_done() {
                let (_, events) = self.coordinator.disk.replay(fleet_common::lease::Millis(0));
                self.check.at_the_end(&events);
                break;
            }
        }
        self.check.violation().map(str::to_owned)
    }

    /// The log so far.
    pub(crate) fn log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    /// Writes into the log, where there is one.
    pub(crate) fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if let Some(lines) = self.log.as_ref().map(Vec::len) {
            let line = format!("{lines:>6} {} {}", clock(self.now), what(self));
            self.log.iter_mut().for_each(|log| log.push(line.clone()));
        }
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random_bool(share)
    }

    /// Whether a fault of this class may strike now.
    pub(crate) fn may(&self, fault: Fault) -> bool {
        self.calm.is_none() && self.faults.has(fault)
    }

    /// Until something does well again: mostly short, at times longer than a lease.
    fn a_while(&mut self) -> At {
        let longest = if self.random.random_bool(0.3) { self.terms.time_ms * 5 / 2 } else { self.terms.time_ms / 3 };
        self.random.random_range(100..longest)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Coordinator(life, work) => self.coordinator_works(life, work),
            Happening::CoordinatorStarts => self.start_coordinator(),
            Happening::CoordinatorResumes(life) => self.resume_coordinator(life),
            Happening::Agent(agent, life, doing) => self.agent_does(agent, life, doing),
            Happening::AgentStarts(agent) => self.start_agent(agent),
            Happening::AgentResumes(agent, life, slept) => self.resume_agent(agent, life, slept),
            Happening::Healed(agent) => {
                self.say(|w| format!("{}'s cable is back", w.agents[agent].id));
                self.agents[agent].cut = false;
                self.trouble(agent);
            }
            Happening::Fault => {
                if self.calm.is_none() {
                    self.strike();
                    let next = self.now + self.random.random_range(500..20_000);
                    self.queue.put(next, Happening::Fault);
                }
            }
            Happening::Calm => self.calm_down(),
        }
    }

    /// Something went wrong for an agent: the coordinator may not hear it for a while.
    pub(crate) fn trouble(&mut self, agent: usize) {
        self.agents[agent].trouble = self.now;
    }

    /// How long a message takes, or `None` if it is lost.
    pub(crate) fn way(&mut self, agent: usize) -> Option<At> {
        if self.agents[agent].cut || (self.calm.is_none() && self.chance(self.loss)) {
            self.tally.count("messages lost");
            self.trouble(agent);
            return None;
        }
        if self.calm.is_none() && self.chance(self.slow) {
            self.tally.count("messages that took over a second");
            let takes = self.random.random_range(1_000..40_000);
            self.agents[agent].trouble = self.now + takes;
            return Some(takes);
        }
        Some(self.random.random_range(1..50))
    }

    /// Asks the coordinator on an agent's behalf.
    pub(crate) fn ask(&mut self, agent: usize, request: Request) -> u64 {
        self.asked += 1;
        let (number, life) = (self.asked, self.agents[agent].life);
        let patience = self.now + request.patience_ms();
        self.calls.insert(number, Call { agent, life, request: request.clone() });
        self.queue.put(patience, Happening::Agent(agent, life, Doing::Patience(number)));
        if let Some(takes) = self.way(agent) {
            let arrives = Work::Arrives { call: number, agent, life, request };
            self.queue.put(self.now + takes, Happening::Coordinator(self.coordinator.life, arrives));
        }
        number
    }

    /// An answer, or the news that there will be none, goes to an agent.
    pub(crate) fn answer(&mut self, call: u64, agent: usize, life: u32, reply: Option<fleet_coordinator::core::Reply>) {
        if let Some(takes) = self.way(agent) {
            let answered = Doing::Answered(call, reply.map(Box::new));
            self.queue.put(self.now + takes, Happening::Agent(agent, life, answered));
        }
    }

    /// An agent no longer waits: the coordinator may hear of it.
    pub(crate) fn forget(&mut self, call: u64) {
        if let Some(Call { agent, .. }) = self.calls.remove(&call)
            && let Some(takes) = self.way(agent)
        {
            self.queue.put(self.now + takes, Happening::Coordinator(self.coordinator.life, Work::Left(call)));
        }
    }

    /// A person wants something.
    fn person(&mut self, input: impl FnOnce(Token) -> Input, what: &'static str) {
        self.tally.count(what);
        self.say(|_| format!("a person: {what}"));
        let token = self.coordinator.token();
        let work = Work::Person(Box::new(input(token)));
        self.queue.put(self.now, Happening::Coordinator(self.coordinator.life, work));
    }

    pub(crate) fn submit(&mut self) {
        let name = self.random.random_range(0..campaigns::NAMES.len());
        let files = &campaigns::all()[name];
        let file = files[self.random.random_range(0..files.len())].clone();
        self.person(|token| Input::Submit(token, Box::new(file)), "submissions");
    }

    fn strike(&mut self) {
        let which = Fault::ALL[self.random.random_range(0..Fault::ALL.len())];
        if self.coordinator.life < 2 && self.now < 2_000 {
            return self.submit();
        }
        if !self.faults.has(which) {
            return;
        }
        let agent = self.random.random_range(0..self.agents.len());
        let while_ms = self.a_while();
        match which {
            // These have their shares all the time.
            Fault::Loss | Fault::Delay | Fault::Workers | Fault::AgentDisk => {}
            Fault::Partition => {
                if !std::mem::replace(&mut self.agents[agent].cut, true) {
                    self.tally.count("cables pulled out");
                    self.say(|w| format!("{}'s cable is pulled out for {while_ms} ms", w.agents[agent].id));
                    self.queue.put(self.now + while_ms, Happening::Healed(agent));
                }
            }
            Fault::CoordinatorKilled => self.crash_coordinator("killed"),
            Fault::CoordinatorTorn => {
                let point = Point::ALL[self.random.random_range(0..Point::ALL.len())];
                self.coordinator.crash_at = Some(point);
            }
            Fault::CoordinatorPaused => self.pause_coordinator(while_ms),
            Fault::SlowDisk => self.coordinator.slow_sync = Some(while_ms),
            Fault::FullDisk => {
                self.say(|_| format!("the coordinator's disk is full for {while_ms} ms"));
                self.coordinator.full_until = self.now + while_ms;
            }
            Fault::AgentKilled => {
                // Now, or at a boundary of what it does next.
                if self.random.random_bool(0.5) {
                    self.crash_agent(agent, "killed");
                } else {
                    self.agents[agent].crash_in = Some(self.random.random_range(0..6));
                }
            }
            Fault::AgentEnded => self.end_agent(agent),
            Fault::AgentPaused => self.pause_agent(agent, while_ms, false),
            Fault::AgentSleeps => self.pause_agent(agent, while_ms, true),
            Fault::Clocks => {
                self.tally.count("clocks set");
                self.coordinator.skew_ms = self.random.random_range(-86_400_000..86_400_000);
            }
            Fault::People => match self.random.random_range(0..4) {
                0 => {
                    let name = campaigns::name(self.random.next_u32() as usize);
                    self.person(|token| Input::Cancel(token, name), "cancellations");
                }
                1 => {
                    let campaign = campaigns::name(self.random.next_u32() as usize);
                    let retry = |token| Input::Retry { token, campaign, failed: true, missing: true };
                    self.person(retry, "retries");
                }
                _ => self.submit(),
            },
        }
    }

    /// Faults stop: what is down comes back, what was cut is whole.
    fn calm_down(&mut self) {
        self.calm = Some(self.now);
        self.say(|_| "faults stop".into());
        self.coordinator.crash_at = None;
        self.coordinator.slow_sync = None;
        self.coordinator.full_until = self.now;
        if self.coordinator.is_up() {
            self.resume_coordinator(self.coordinator.life);
        } else {
            self.queue.put(self.now, Happening::CoordinatorStarts);
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].cut = false;
            self.agents[agent].crash_in = None;
            self.agents[agent].trouble = self.now + 40_000;
            if self.agents[agent].is_up() {
                self.resume_agent(agent, self.agents[agent].life, false);
            } else {
                self.queue.put(self.now, Happening::AgentStarts(agent));
            }
        }
        self.coordinator.wants_more = true;
    }

    /// Whether all campaigns are finished and nothing is left; it is a violation if that takes too long.
    fn is_done(&mut self) -> bool {
        self.look_at = self.now + 500;
        let Some(state) = self.coordinator.state() else { return false };
        if self.coordinator.wants_more || self.coordinator.is_busy() {
            return false;
        }
        let left = self.agents.iter().find(|a| a.has_something());
        let unknown = self.agents.iter().find(|a| a.is_up() && self.coordinator.content_of(&a.id) != Some(&a.cache));
        let finished = left.is_none() && self.coordinator.is_finished();
        if finished && unknown.is_none() {
            return true;
        }
        // All trials on one slot, one after another, and the longest waits of both sides.
        let trials = state.campaigns().values().map(|c| c.trials.len() as u64).sum::<u64>();
        let bound = self.calm.unwrap_or(0) + 4 * self.terms.time_ms + 120_000 + trials * 100_000;
        if self.now > bound && finished {
            let what = unknown.map(|a| (a.id.to_string(), &a.cache, self.coordinator.content_of(&a.id)));
            let what = format!("after {} it is not known what an agent has: {what:?}", clock(self.now));
            self.check.violated(12, what);
        } else if self.now > bound {
            let left = left.map(|a| a.id.to_string());
            let what = format!(
                "after {} not all is finished: {:?}, left with {left:?}",
                clock(self.now),
                self.coordinator.open()
            );
            self.check.violated(11, what);
        }
        false
    }
}
