//! The core's decisions, without a network, a disk or a clock.

mod confined;
mod content;
mod holes;
mod imports;
mod placing;
mod promises;
mod resumables;
mod standing;
mod stories;

use std::collections::BTreeMap;

use fleet_common::id::{AgentId, Attempt, CampaignName, SlotId, TrialId};
use fleet_common::lease::{Holder, LeaseTerms, Millis, Release, StateKind};
use fleet_common::plan::{DatasetIdentity, Resolution, plan};
use fleet_common::record::OutcomeClass;
use fleet_common::spec::{self, DatasetName};
use fleet_common::telemetry::Seal;

use super::*;

const TERMS: LeaseTerms = LeaseTerms { time_ms: 60_000, renew_every_ms: 15_000, missed_renewals: 4, max_losses: 3 };

/// The same campaign is asked for thousands of times; estimating what it needs takes a while.
fn prepared(seeds: &str, hardware: &str) -> Box<Prepared> {
    thread_local! {
        static MADE: std::cell::RefCell<BTreeMap<(String, String), Box<Prepared>>> = Default::default();
    }
    let key = (seeds.to_owned(), hardware.to_owned());
    MADE.with_borrow_mut(|made| made.entry(key).or_insert_with(|| prepare(seeds, hardware)).clone())
}

fn prepare(seeds: &str, hardware: &str) -> Box<Prepared> {
    let toml = format!(
        "name = \"t\"\nseeds = {seeds}\nhardware = {hardware}\n[matrix]\nmethod = [\"full\", \"lora\"]\n\
         backbone = \"vit_micro\"\ndataset = \"textures\"\n[train]\nsteps = 10\n"
    );
    let campaign = spec::Campaign::parse("t.toml", &toml).expect("valid");
    let identity = DatasetIdentity { fingerprint: "0".repeat(64), classes: 8, train: 10, test: 10 };
    let datasets = [(DatasetName::Textures("textures".into()), Ok(identity))].into();
    let plan = plan(&campaign, &Resolution { datasets, ..Resolution::default() });
    Box::new(Prepared::new(campaign, toml, plan))
}

fn holder(agent: &str) -> Holder {
    Holder { agent: agent.parse().expect("an id"), slot: "cpu".parse().expect("a slot") }
}

/// A core with a clock, and everything it ever said.
struct World {
    core: Core,
    now: u64,
    tokens: u64,
    events: Vec<Event>,
    replies: BTreeMap<Token, Reply>,
}

impl World {
    fn new() -> Self {
        let core = Core::new(State::default(), TERMS);
        Self { core, now: 0, tokens: 0, events: Vec::new(), replies: BTreeMap::new() }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn feed(&mut self, input: Input) -> Vec<Event> {
        let step = self.core.handle(input, Now { mono: Millis(self.now), unix_ms: 1_000 + self.now });
        self.events.extend(step.events.clone());
        for (token, reply) in step.replies {
            assert!(self.replies.insert(token, reply).is_none(), "answered twice");
        }
        step.events
    }

    fn ask(&mut self, input: impl FnOnce(Token) -> Input) -> Option<Reply> {
        let token = self.token();
        self.feed(input(token));
        self.replies.get(&token).cloned()
    }

    fn submit(&mut self, seeds: &str) -> Reply {
        self.ask(|t| Input::Submit(t, prepared(seeds, "\"any\""))).expect("answered at once")
    }

    fn register(&mut self, agent: &str, held: Vec<Claim>) -> Vec<Verdict> {
        self.register_as(agent, held, 0)
    }

    fn register_as(&mut self, agent: &str, held: Vec<Claim>, number: u64) -> Vec<Verdict> {
        let slots = vec![SlotInfo {
            slot: "cpu".parse().expect("a slot"),
            hardware: "CPU".parse().expect("a class"),
            memory_bytes: 1 << 30,
            about: SlotAbout::default(),
        }];
        let agent: AgentId = agent.parse().expect("an id");
        let (version, host, content) = ("1".into(), "h".into(), BTreeSet::new());
        let reply = self.ask(|token| Input::Register { token, agent, version, host, slots, held, number, content });
        match reply {
            Some(Reply::Registered(verdicts)) => verdicts,
            other => panic!("{other:?}"),
        }
    }

    fn pull(&mut self, agent: &str) -> Option<Offer> {
        match self.ask(|token| Input::Pull { token, holder: holder(agent), wait_ms: 0 }) {
            Some(Reply::Leased(offer)) => offer,
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self, agent: &str, offer: &Offer, class: OutcomeClass) -> Reported {
        let (trial, attempt) = (offer.trial.clone(), offer.attempt);
        let reply = self.ask(|token| Input::Report {
            token,
            holder: holder(agent),
            trial,
            attempt,
            class,
            reason: "because".into(),
            record: b"{}".to_vec(),
            seal: Seal::default(),
            figures: Figures::default(),
        });
        match reply {
            Some(Reply::Reported(reported)) => reported,
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, agent: &str, offer: &Offer) -> Option<Vec<Verdict>> {
        let running = vec![(claim(offer), Progress::default())];
        let agent: AgentId = agent.parse().expect("an id");
        match self.ask(|token| Input::Heartbeat { token, agent, running, content: None }) {
            Some(Reply::Heartbeat(verdicts)) => verdicts,
            other => panic!("{other:?}"),
        }
    }

    /// Time passes, and the coordinator notices.
    fn pass(&mut self, ms: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut left = ms;
        while left > 0 {
            let step = left.min(5_000);
            self.now += step;
            left -= step;
            events.extend(self.feed(Input::Tick));
        }
        events
    }

    /// Time passes, and the coordinator does not notice.
    fn sleep(&mut self, ms: u64) {
        self.now += ms;
    }

    fn kind(&self, trial: &TrialId) -> StateKind {
        self.core.state().trial(trial).expect("known").life.state.kind()
    }
}

fn claim(offer: &Offer) -> Claim {
    Claim { trial: offer.trial.clone(), attempt: offer.attempt, slot: "cpu".parse::<SlotId>().expect("a slot") }
}
