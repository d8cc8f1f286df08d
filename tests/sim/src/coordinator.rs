//! The coordinator's process: the real core, the real journal's bytes, and the driver's order: what follows from inputs
//! becomes durable, then the answers go out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fleet_common::id::AgentId;
use fleet_common::lease::{Millis, Release, StateKind};
use fleet_content::Item;
use fleet_coordinator::core::{Core, Event, Input, Now, Reply, State, Token};
use rand::RngExt as _;

use crate::check::Check;
use crate::contract::{Request, in_words, short};
use crate::disk::{Disk, Tear};
use crate::faults::Fault;
use crate::queue::At;
use crate::world::{Happening, World};

/// Inputs that share one sync at most.
const BATCH: usize = 512;
/// How often time passes for the core.
const TICK_MS: u64 = 500;
/// A coordinator that has not looked for so long was stopped.
const STOPPED_MS: u64 = 2_000;

/// What the coordinator's process does next.
#[derive(Debug)]
pub(crate) enum Work {
    Tick,
    /// An agent's question is here.
    Arrives {
        call: u64,
        agent: usize,
        life: u32,
        request: Request,
    },
    /// Whoever asked this waits no longer.
    Left(u64),
    Person(Box<Input>),
    /// The inbox is looked at.
    Look,
    /// The sync is done.
    Synced,
    /// The machine goes down.
    Crash,
}

/// Where a crash strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    BeforeWrite,
    WithinWrite,
    WithinSync,
    BeforeAnswers,
    AmidAnswers,
}

impl Point {
    pub(crate) const ALL: [Self; 5] =
        [Self::BeforeWrite, Self::WithinWrite, Self::WithinSync, Self::BeforeAnswers, Self::AmidAnswers];
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
struct Asker {
    call: u64,
    agent: usize,
    life: u32,
}

/// The process, and its disk, which outlives it.
pub(crate) struct Coordinator {
    pub life: u32,
    core: Option<Core>,
    pub disk: Disk,
    started: At,
    /// What came since.
    inbox: VecDeque<Input>,
    waiting: BTreeMap<Token, Asker>,
    tokens: u64,
    /// Answers that wait for the sync that is under way.
    syncing: Option<Vec<(Token, Reply)>>,
    paused: bool,
    /// What happened to a paused process reaches it when it goes on.
    held_back: Vec<Work>,
    ticked: u64,
    pub crash_at: Option<Point>,
    pub slow_sync: Option<u64>,
    pub full_until: At,
    pub skew_ms: i64,
    /// Somebody will submit a campaign as soon as it is up.
    pub wants_more: bool,
    /// The last time at which it was down, stopped or stalled.
    trouble: At,
}

impl Coordinator {
    pub(crate) fn new() -> Self {
        Self {
            life: 0,
            core: None,
            disk: Disk::new(),
            started: 0,
            inbox: VecDeque::new(),
            waiting: BTreeMap::new(),
            tokens: 0,
            syncing: None,
            paused: false,
            held_back: Vec::new(),
            ticked: 0,
            crash_at: None,
            slow_sync: None,
            full_until: 0,
            skew_ms: 0,
            wants_more: false,
            trouble: 0,
        }
    }

    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn state(&self) -> Option<&State> {
        self.core.as_ref().map(Core::state)
    }

    /// What an agent has, as far as it is known here.
    pub(crate) fn content_of(&self, agent: &AgentId) -> Option<&BTreeSet<Item>> {
        self.core.as_ref().and_then(|core| core.content_of(agent))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.syncing.is_some() || !self.inbox.is_empty()
    }

    /// Whether all trials have ended.
    pub(crate) fn is_finished(&self) -> bool {
        let Some(state) = self.state() else { return false };
        state.leases().next().is_none() && self.open().is_empty()
    }

    /// Trials that have not ended.
    pub(crate) fn open(&self) -> Vec<String> {
        let Some(state) = self.state() else { return Vec::new() };
        let trials = state.campaigns().values().flat_map(|c| &c.trials);
        let open = trials.filter_map(|id| Some((id, &state.trial(id)?.life.state)));
        let open = open.filter(|(_, life)| matches!(life.kind(), StateKind::Waiting | StateKind::Leased));
        open.map(|(id, life)| format!("{} {life:?}", short(id))).collect()
    }

    fn mono(&self, now: At) -> u64 {
        now - self.started
    }
}

impl World {
    pub(crate) fn start_coordinator(&mut self) {
        if self.coordinator.is_up() {
            return;
        }
        let found = self.coordinator.disk.start();
        self.say(|_| {
            let (events, cut, holes) = (found.events.len(), found.cut, found.holes);
            format!("coordinator starts: {events} events, {cut} bytes cut off, {holes} holes, {:?}", found.misfits)
        });
        self.check.holes |= found.holes > 0;
        self.check.back_to(&found.state, found.events, &found.misfits, 0);
        let c = &mut self.coordinator;
        c.life += 1;
        c.core = Some(Core::new(found.state, self.terms));
        (c.started, c.ticked, c.trouble) = (self.now, 0, self.now);
        self.queue.put(self.now, Happening::Coordinator(self.coordinator.life, Work::Tick));
    }

    /// The process is gone, and its machine's caches with it.
    pub(crate) fn crash_coordinator(&mut self, how: &'static str) {
        if !self.coordinator.is_up() {
            return;
        }
        let tear = self.coordinator.disk.crash(&mut self.random);
        self.say(|_| format!("coordinator {how}; what was not synced: {tear:?}"));
        self.tally.count("coordinator crashes");
        match tear {
            Tear::Nothing => {}
            Tear::Lost => self.tally.count("unsynced writes lost"),
            Tear::Kept => self.tally.count("unsynced writes kept"),
            Tear::Cut | Tear::Garbled => self.tally.count("writes torn at the end"),
            Tear::Hole => self.tally.count("writes torn in the middle"),
        }
        let c = &mut self.coordinator;
        (c.core, c.syncing, c.paused, c.crash_at) = (None, None, false, None);
        c.inbox.clear();
        c.held_back.clear();
        // Connections break: most askers notice at once.
        for asker in std::mem::take(&mut self.coordinator.waiting).into_values() {
            if self.random.random_bool(0.7) {
                self.answer(asker.call, asker.agent, asker.life, None);
            }
        }
        let down = if self.random.random_bool(0.2) { self.terms.time_ms * 2 } else { 10_000 };
        let back = self.now + self.random.random_range(50..down);
        self.queue.put(back, Happening::CoordinatorStarts);
    }

    pub(crate) fn pause_coordinator(&mut self, ms: u64) {
        if self.coordinator.is_up() && !self.coordinator.paused {
            self.tally.count("coordinator pauses");
            self.say(|_| format!("coordinator is stopped for {ms} ms"));
            self.coordinator.paused = true;
            self.queue.put(self.now + ms, Happening::CoordinatorResumes(self.coordinator.life));
        }
    }

    pub(crate) fn resume_coordinator(&mut self, life: u32) {
        if self.coordinator.life != life || !self.coordinator.paused {
            return;
        }
        self.say(|_| "coordinator goes on".into());
        self.coordinator.paused = false;
        self.coordinator.trouble = self.now;
        for work in std::mem::take(&mut self.coordinator.held_back) {
            self.queue.put(self.now, Happening::Coordinator(life, work));
        }
    }

    pub(crate) fn coordinator_works(&mut self, life: u32, work: Work) {
        if self.coordinator.life != life || !self.coordinator.is_up() {
            // Nobody is there: the connection is refused, or was reset.
            if let Work::Arrives { call, agent, life, .. } = work {
                self.answer(call, agent, life, None);
            }
            return;
        }
        if self.coordinator.paused {
            return self.coordinator.held_back.push(work);
        }
        match work {
            Work::Tick => {
                self.coordinator.inbox.push_back(Input::Tick);
                self.queue.put(self.now + TICK_MS, Happening::Coordinator(life, Work::Tick));
                if self.calm.is_some() && std::mem::take(&mut self.coordinator.wants_more) {
                    self.submit();
                }
            }
            Work::Arrives { call, agent, life, request } => {
                let token = self.coordinator.token();
                self.coordinator.waiting.insert(token, Asker { call, agent, life });
                let input = request.input(token, &self.agents[agent].id);
                self.coordinator.inbox.push_back(input);
            }
            Work::Left(call) => {
                let token = self.coordinator.waiting.iter().find(|(_, asker)| asker.call == call).map(|(t, _)| *t);
                if let Some(token) = token {
                    self.coordinator.waiting.remove(&token);
                    self.coordinator.inbox.push_back(Input::Gone(token));
                }
            }
            Work::Person(input) => self.coordinator.inbox.push_back(*input),
            Work::Look => {}
            Work::Synced => return self.synced(),
            Work::Crash => return self.crash_coordinator("crashes within a sync"),
        }
        self.look();
    }

    /// Takes a batch from the inbox, as the driver does.
    fn look(&mut self) {
        if self.coordinator.syncing.is_some() || self.coordinator.inbox.is_empty() {
            return;
        }
        let unix_ms = (1_700_000_000_000 + self.now as i64 + self.coordinator.skew_ms) as u64;
        let (mut events, mut replies) = (Vec::new(), Vec::new());
        for _ in 0..BATCH {
            let Some(input) = self.coordinator.inbox.pop_front() else { break };
            self.take_in(input, unix_ms, &mut events, &mut replies);
        }
        if events.is_empty() {
            return self.answer_all(replies);
        }
        let crash_at = self.coordinator.crash_at;
        if crash_at == Some(Point::BeforeWrite) {
            return self.crash_coordinator("crashes before a write");
        }
        let torn = (crash_at == Some(Point::WithinWrite)).then(|| self.random.random_range(0..=events.len()));
        for (n, event) in events.into_iter().enumerate() {
            if torn == Some(n) {
                break;
            }
            let number = self.coordinator.disk.append(&event, unix_ms);
            self.check.numbered(number, event);
        }
        if torn.is_some() {
            return self.crash_coordinator("crashes within a write");
        }
        if self.now < self.coordinator.full_until {
            return self.refused(replies);
        }
        let takes = match self.coordinator.slow_sync.take() {
            Some(ms) => {
                self.tally.count("slow syncs");
                self.say(|_| format!("a sync takes {ms} ms"));
                ms
            }
            None => self.random.random_range(1..20),
        };
        self.coordinator.syncing = Some(replies);
        let life = self.coordinator.life;
        self.queue.put(self.now + takes, Happening::Coordinator(life, Work::Synced));
        if crash_at == Some(Point::WithinSync) {
            let at = self.now + self.random.random_range(0..takes);
            self.queue.put(at, Happening::Coordinator(life, Work::Crash));
        }
    }

    fn take_in(&mut self, input: Input, unix_ms: u64, events: &mut Vec<Event>, replies: &mut Vec<(Token, Reply)>) {
        let mono = self.coordinator.mono(self.now);
        match &input {
            Input::Register { agent, slots, .. } => {
                self.check.registered(agent, slots.iter().map(|s| s.slot.clone()));
            }
            Input::Tick => {
                // A coordinator that was stopped has not heard its agents, which says nothing about them.
                let before = std::mem::replace(&mut self.coordinator.ticked, mono);
                if mono - before > self.terms.renew_every_ms.max(STOPPED_MS) {
                    self.check.renewed_all(mono);
                    self.coordinator.trouble = self.now;
                }
            }
            _ => {}
        }
        let Some(core) = &mut self.coordinator.core else { return };
        let step = core.handle(input, Now { mono: Millis(mono), unix_ms });
        self.check.state(core.state());
        for event in step.events {
            self.heard(&event, mono);
            self.check.event(&event, mono, &self.terms);
            if matches!(event, Event::CampaignSubmitted(_) | Event::CampaignCancelled { .. })
                && let Some(state) = self.coordinator.state()
            {
                self.check.called_off(state);
            }
            events.push(event);
        }
        for (_, reply) in &step.replies {
            renewals(&mut self.check, reply, mono);
        }
        replies.extend(step.replies);
    }

    /// Counts and logs what happened.
    fn heard(&mut self, event: &Event, mono: u64) {
        self.say(|_| match event {
            Event::CampaignSubmitted(s) => format!("event: {} is submitted, {} trials", s.name, s.trials.len()),
            Event::TrialRecorded { trial, attempt, class, .. } => {
                format!("event: {} attempt {attempt} is recorded: {}", short(trial), class.name())
            }
            Event::ReportSuperseded { trial, attempt, .. } => {
                format!("event: {} attempt {attempt} is superseded", short(trial))
            }
            Event::LeaseGranted { trial, attempt, holder } => {
                format!("event: {} attempt {attempt} is granted to {} {}", short(trial), holder.agent, holder.slot)
            }
            Event::LeaseReleased { trial, attempt, cause, reason } => {
                format!("event: {} attempt {attempt} is released, {cause:?}: {reason}", short(trial))
            }
            other => format!("event: {other:?}"),
        });
        self.tally.count(match event {
            Event::LeaseGranted { .. } => "leases granted",
            Event::LeaseResumed { .. } => "leases resumed",
            Event::LeaseReleased { cause: Release::Silent, .. } => "leases lost by silence",
            Event::LeaseReleased { cause: Release::Restarted, .. } => "leases lost by restarts",
            Event::LeaseReleased { .. } => "leases given back or crashed",
            Event::TrialRecorded { .. } => "trials recorded",
            Event::ReportSuperseded { .. } => "records superseded",
            Event::TrialGivenUp { .. } => "trials given up",
            Event::TrialRetried { .. } => "trials retried",
            _ => "other events",
        });
        match event {
            Event::LeaseReleased { trial, cause: Release::Silent, .. } => self.silence_is_deserved(trial, mono),
            Event::LeaseReleased { trial, attempt, cause: Release::Restarted, .. } => {
                let at_work = self.agents.iter().find(|a| a.is_at_work(trial, *attempt));
                if let Some(id) = at_work.map(|a| a.id.clone()) {
                    let text = format!("{} counts as lost by a restart, and {id} is at work on it", short(trial));
                    self.check.violated(7, text);
                }
            }
            _ => {}
        }
    }

    /// An agent that has been up, whole and heard for longer than a lease is never lost by silence.
    fn silence_is_deserved(&mut self, trial: &fleet_common::id::TrialId, mono: u64) {
        let Some(holder) = self.check.holder(trial) else { return };
        let Some(agent) = self.agents.iter().find(|a| a.id == holder.agent) else { return };
        let trouble = agent.trouble.max(self.coordinator.trouble).max(self.coordinator.full_until.min(self.now));
        let whole = agent.is_well() && self.now.saturating_sub(trouble) > self.terms.time_ms + 60_000;
        if whole {
            let text = format!("{} lost {} at {mono} without any trouble", holder.agent, short(trial));
            self.check.violated(7, text);
        }
    }

    /// The disk is full: nothing of the batch counts.
    fn refused(&mut self, replies: Vec<(Token, Reply)>) {
        self.tally.count("writes refused by a full disk");
        self.say(|_| "the disk refuses; back to what is durable".into());
        let mono = self.coordinator.mono(self.now);
        self.coordinator.disk.refuse();
        for (token, _) in replies {
            if let Some(asker) = self.coordinator.waiting.remove(&token) {
                self.answer(asker.call, asker.agent, asker.life, None);
            }
        }
        let (state, events) = self.coordinator.disk.replay(Millis(mono));
        self.check.back_to(&state, events, &[], mono);
        if let Some(core) = &mut self.coordinator.core {
            core.replace_state(state);
        }
        let look = Happening::Coordinator(self.coordinator.life, Work::Look);
        self.queue.put(self.now, look);
    }

    fn synced(&mut self) {
        let Some(replies) = self.coordinator.syncing.take() else { return };
        self.coordinator.disk.sync();
        if self.coordinator.crash_at == Some(Point::BeforeAnswers) {
            return self.crash_coordinator("crashes before its answers");
        }
        self.answer_all(replies);
        self.look();
    }

    fn answer_all(&mut self, replies: Vec<(Token, Reply)>) {
        let amid = self.coordinator.crash_at == Some(Point::AmidAnswers) && replies.len() > 1;
        let last = amid.then(|| self.random.random_range(1..replies.len()));
        if !replies.is_empty() {
            self.check.promised();
        }
        for (n, (token, reply)) in replies.into_iter().enumerate() {
            if last == Some(n) {
                return self.crash_coordinator("crashes amid its answers");
            }
            if let Some(asker) = self.coordinator.waiting.remove(&token) {
                self.say(|w| format!("coordinator to {}: {}", w.agents[asker.agent].id, in_words(&reply)));
                self.answer(asker.call, asker.agent, asker.life, Some(reply));
            }
        }
    }

    /// Whether a class of faults may strike the agents' disks now.
    pub(crate) fn disk_refuses(&mut self) -> bool {
        let may = self.may(Fault::AgentDisk);
        may && self.chance(0.05)
    }
}

/// The claims that a reply accepts are renewed.
fn renewals(check: &mut Check, reply: &Reply, mono: u64) {
    match reply {
        Reply::Registered(verdicts) | Reply::Heartbeat(Some(verdicts)) => {
            for verdict in verdicts.iter().filter(|v| v.keep.is_ok()) {
                check.renewed(&verdict.claim.trial, mono);
            }
        }
        Reply::Leased(Some(offer)) => check.renewed(&offer.trial, mono),
        _ => {}
    }
}
