//! Where trials go, why they wait, and slots that are taken out of work.

use fleet_common::wire::v1;

use super::*;

/// A campaign of two cells (full and LoRA) with more said in front of `[matrix]`.
fn campaign(name: &str, head: &str, tail: &str) -> Box<Prepared> {
    let toml = format!(
        "name = \"{name}\"\nseeds = [0]\n{head}\n[matrix]\nmethod = [\"full\", \"lora\"]\nbackbone = \"vit_micro\"\n\
         dataset = \"textures\"\n[train]\nsteps = 10\nbatch = 16\n{tail}"
    );
    let campaign = spec::Campaign::parse("t.toml", &toml).expect("valid");
    let identity = DatasetIdentity { fingerprint: "0".repeat(64), classes: 8, train: 10, test: 10 };
    let datasets = [(DatasetName::Textures("textures".into()), Ok(identity))].into();
    let plan = plan(&campaign, &Resolution { datasets, ..Resolution::default() });
    Box::new(Prepared::new(campaign, toml, plan))
}

fn slot(class: &str, memory_bytes: u64) -> SlotInfo {
    SlotInfo {
        slot: "cpu".parse().expect("a slot"),
        hardware: class.parse().expect("a class"),
        memory_bytes,
        about: SlotAbout::default(),
    }
}

impl World {
    fn join(&mut self, agent: &str, slot: SlotInfo) {
        let agent: AgentId = agent.parse().expect("an id");
        let (version, host, slots, held) = ("1".into(), "h".into(), vec![slot], vec![]);
        self.ask(|token| Input::Register {
            token,
            agent,
            version,
            host,
            number: 0,
            slots,
            held,
            content: BTreeSet::new(),
        });
    }

    fn submit_this(&mut self, prepared: Box<Prepared>) {
        let reply = self.ask(|t| Input::Submit(t, prepared));
        assert!(matches!(reply, Some(Reply::Submitted(Ok(_)))), "{reply:?}");
    }

    fn status(&mut self, name: &str) -> CampaignView {
        let name = name.parse().expect("a name");
        match self.ask(|t| Input::Status(t, Some(name))) {
            Some(Reply::Status(Ok(snapshot))) => snapshot.campaigns.into_iter().next().expect("it is known"),
            other => panic!("{other:?}"),
        }
    }

    /// The one reason for which trials of a campaign wait.
    fn reason(&mut self, name: &str) -> String {
        let waits = self.status(name).waits;
        assert_eq!(waits.len(), 1, "{waits:?}");
        waits.into_keys().next().unwrap_or_default()
    }

    fn drain(&mut self, agent: &str, now: bool) -> Result<Drained, Refusal> {
        let agent = agent.parse().expect("an id");
        let reason = "new fan".to_owned();
        match self.ask(|token| Input::Drain { token, agent, slot: None, reason, now }) {
            Some(Reply::Drained(outcome)) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn undrain(&mut self, agent: &str) -> Result<Drained, Refusal> {
        let agent = agent.parse().expect("an id");
        match self.ask(|token| Input::Undrain { token, agent, slot: None }) {
            Some(Reply::Drained(outcome)) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn explain(&mut self, what: &str) -> Result<Vec<Explanation>, Refusal> {
        match self.ask(|t| Input::Explain(t, what.to_owned())) {
            Some(Reply::Explained(explained)) => explained,
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, agent: &str, offer: &Offer, class: OutcomeClass, figures: Figures) {
        let (trial, attempt, seal) = (offer.trial.clone(), offer.attempt, Seal::default());
        let (reason, record) = (String::new(), b"{}".to_vec());
        let holder = holder(agent);
        self.ask(|token| Input::Report { token, holder, trial, attempt, class, reason, record, seal, figures });
    }
}

const SMALL: u64 = 1 << 20;
const LARGE: u64 = 8 << 30;

#[test]
fn a_drained_agent_gets_nothing_new_and_that_survives_a_restart() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let running = w.pull("a").expect("work");
    assert_eq!(w.drain("a", false), Ok(Drained { slots: 1, running: 1, returned: 0 }));
    assert_eq!(w.heartbeat("a", &running).expect("known")[0].keep, Ok(()), "what runs ends undisturbed");
    assert!(w.reason("t").contains("drained by an operator: new fan; `fleet agents undrain` opens it"));
    assert_eq!(w.report("a", &running, OutcomeClass::Completed), Reported::Recorded);
    assert!(w.pull("a").is_none());
    let mut state = State::default();
    for event in &w.events {
        state.apply(event, Millis(0), 1_000).expect("the journal fits");
    }
    let mut again =
        World { core: Core::new(state, TERMS), now: 0, tokens: 100, events: vec![], replies: BTreeMap::new() };
    again.register("a", vec![]);
    assert!(again.pull("a").is_none(), "still drained");
    // A question that waits is answered when the slot is opened.
    let token = again.token();
    again.feed(Input::Pull { token, holder: holder("a"), wait_ms: 30_000 });
    assert!(!again.replies.contains_key(&token));
    assert_eq!(again.undrain("a"), Ok(Drained { slots: 1, ..Drained::default() }));
    assert!(matches!(again.replies.get(&token), Some(Reply::Leased(Some(_)))));
    let error = again.drain("b", false).expect_err("no such agent").to_string();
    assert!(error.contains("no agent is called \"b\"") && error.contains("fleet agents"), "{error}");
}

#[test]
fn draining_at_once_gives_back_what_runs_and_costs_it_no_loss() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let running = w.pull("a").expect("work");
    assert_eq!(w.drain("a", true), Ok(Drained { slots: 1, running: 1, returned: 1 }));
    assert!(w.heartbeat("a", &running).expect("known")[0].keep.is_err(), "its agent stops");
    assert_eq!(w.core.state().trial(&running.trial).expect("known").life.losses, 0);
    w.register("b", vec![]);
    let mut got = Vec::new();
    while let Some(offer) = w.pull("b") {
        w.report("b", &offer, OutcomeClass::Completed);
        got.push(offer.trial);
    }
    assert!(got.contains(&running.trial), "it goes on elsewhere");
}

#[test]
fn a_device_at_fault_is_taken_out_of_work_and_its_trial_is_not_blamed() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let victim = w.pull("a").expect("work");
    let faulty = |fault: &str| {
        let mut slot = slot("CPU", 1 << 30);
        slot.about.fault = Some(fault.to_owned());
        slot
    };
    let agent: AgentId = "a".parse().expect("an id");
    let (slots, held) = (vec![faulty("Xid 79: it fell off the bus")], vec![claim(&victim)]);
    let (version, host) = (String::new(), String::new());
    w.ask(|token| Input::Register { token, agent, version, host, number: 0, slots, held, content: BTreeSet::new() });
    w.report("a", &victim, OutcomeClass::Crashed);
    let entry = w.core.state().trial(&victim.trial).expect("known");
    assert_eq!((entry.life.losses, entry.life.state.kind()), (0, StateKind::Waiting));
    assert!(w.pull("a").is_none());
    assert!(w.reason("t").contains("quarantined, because its agent found a fault: Xid 79"));
    // An operator looked, and the same words are no news; others are.
    w.undrain("a").expect("known");
    w.join("a", faulty("Xid 79: it fell off the bus"));
    assert!(w.pull("a").is_some());
    w.join("a", faulty("Xid 48: a memory error"));
    assert!(w.pull("a").is_none());
}

#[test]
fn a_trial_goes_where_it_fits_and_says_what_it_needs_where_it_does_not() {
    let mut w = World::new();
    w.submit_this(campaign("c", "repeats = 2\nbudget = \"unlimited\"", ""));
    assert_eq!(w.reason("c"), "no agent is connected; start one with `fleet-agent run`");
    w.join("small", slot("S", SMALL));
    assert!(w.pull("small").is_none());
    let reasons: String = w.status("c").waits.into_keys().collect();
    assert!(reasons.contains("predicted from its settings") && reasons.contains("slot that it may use has 1.0 MiB"));
    w.join("large", slot("L", LARGE));
    let offer = w.pull("large").expect("it fits there");
    assert!(w.pull("small").is_none());
    assert!(w.status("c").waits.into_keys().all(|r| r.starts_with("the one slot that it fits is busy")));
    // What took less than predicted may go to smaller slots.
    let figures = Figures { peak_bytes: SMALL / 2, seconds: 60.0, hardware: None, cap_bytes: 0 };
    w.finish("large", &offer, OutcomeClass::Completed, figures);
    let explained = w.explain(&offer.trial.to_string()).expect("known");
    assert_eq!(explained[0].expected.peak_bytes, Some(SMALL / 2));
    let other = w.pull("small").expect("its other repeat is expected to be as small");
    assert_eq!(other.trial.cell, offer.trial.cell);
}

#[test]
fn the_smallest_slot_that_fits_is_served_first_when_several_wait() {
    let mut w = World::new();
    for (agent, gib) in [("a-large", 16), ("b-small", 2), ("c-middle", 8)] {
        w.join(agent, slot("X", gib << 30));
        let token = w.token();
        w.feed(Input::Pull { token, holder: holder(agent), wait_ms: 30_000 });
    }
    w.submit_this(campaign("c", "", ""));
    let leases: Vec<String> = w.core.state().leases().map(|(h, _)| h.agent.to_string()).collect();
    assert_eq!(leases, ["b-small", "c-middle"]);
}

#[test]
fn a_class_that_was_asked_for_is_tried_although_it_seems_too_small() {
    let mut w = World::new();
    w.join("small", slot("S", SMALL));
    w.submit_this(campaign("c", "hardware = \"each\"\nbudget = \"unlimited\"", ""));
    assert!(w.pull("small").is_some(), "that it does not fit is an answer");
    // And so is anything in a fleet that will never have another slot.
    let mut w = World::new();
    w.core = Core::new(State::default(), TERMS).closed();
    w.join("small", slot("S", SMALL));
    w.submit_this(campaign("c", "budget = \"unlimited\"", ""));
    assert!(w.pull("small").is_some());
}

#[test]
fn a_campaign_runs_only_where_it_selects_and_a_limited_slot_takes_small_budgets_only() {
    let mut w = World::new();
    let tagged = |tag: &str, limit| {
        let mut slot = slot("X", LARGE);
        slot.about.tags = tag.parse().into_iter().collect();
        slot.about.limit_bytes = limit;
        slot
    };
    w.join("home", tagged("room=home", None));
    w.submit_this(campaign("c", "budget = \"3GiB\"", "[select]\nlabel = { room = \"lab\" }\n"));
    assert!(w.pull("home").is_none());
    let reason = w.reason("c");
    assert!(reason.contains("its campaign selects label room=lab, which the one slot"), "{reason}");
    w.join("lab", tagged("room=lab", Some(2 << 30)));
    assert!(w.pull("lab").is_none());
    let reason = w.reason("c");
    assert!(reason.contains("its budget is 3072 MiB") && reason.contains("up to 2048 MiB"), "{reason}");
    w.join("lab", tagged("room=lab", Some(3 << 30)));
    assert!(w.pull("lab").is_some());
    let each = campaign("e", "hardware = \"each\"", "[select]\nmodel = \"4090\"\n");
    let reply = w.ask(|t| Input::Submit(t, each));
    assert!(matches!(&reply, Some(Reply::Submitted(Err(r))) if r.to_string().contains("meets [select]")), "{reply:?}");
}

#[test]
fn a_small_campaign_is_not_starved_and_priority_doubles_a_share() {
    let mut w = World::new();
    w.register("a", vec![]);
    w.submit("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
    w.submit_this(campaign("small", "priority = \"high\"", "schedule = \"cosine\"\n"));
    let mut order = Vec::new();
    while let Some(offer) = w.pull("a") {
        order.push(w.core.state().place(&offer.trial).expect("known").account.to_string());
        w.report("a", &offer, OutcomeClass::Completed);
    }
    assert_eq!(order.len(), 22);
    assert!(order[..6].iter().filter(|name| *name == "small").count() == 2, "{order:?}");
}

#[test]
fn what_a_trial_waits_for_is_explained_slot_by_slot_with_its_past() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    w.join("b", slot("CPU", SMALL));
    let crashed = w.pull("a").expect("work");
    w.report("a", &crashed, OutcomeClass::Crashed);
    let cell = crashed.trial.cell.short().to_owned();
    let [e] = &w.explain(&cell).expect("one trial")[..] else { panic!("one trial") };
    assert_eq!((e.state.as_str(), e.campaigns.as_slice()), ("waiting", &["t".to_owned()][..]));
    assert_eq!(e.attempts.len(), 1);
    assert_eq!((e.attempts[0].ended.as_str(), e.attempts[0].reason.as_str()), ("crashed", "because"));
    let of = |agent: &str| e.slots.iter().find(|s| s.agent == agent).expect("a slot");
    assert!(of("b").reason.contains("needs") && !of("b").fits);
    assert!(of("a").fits && of("a").reason.contains("the slot is free"), "nobody else could: {:?}", of("a"));
    assert_eq!(e.line.as_ref().map(|l| l.waiting), Some(2));
    assert!(w.explain("zz").expect_err("no id").to_string().contains("expected the beginning of a cell id"));
    assert!(w.explain("").is_err());
    let none = if cell.starts_with('f') { "e" } else { "f" };
    let unknown = w.explain(&none.repeat(31)).expect_err("no cell").to_string();
    assert!(unknown.contains("no cell's id begins with"), "{unknown}");
}

#[test]
fn when_a_campaign_is_over_is_told_once_something_is_known() {
    let mut w = World::new();
    w.submit("[0, 1, 2, 3]");
    w.register("a", vec![]);
    let eta = w.status("t").eta.expect("it is not over");
    assert!(eta.is_err_and(|why| why.contains("nothing like its trials has finished yet")));
    let mut last = f64::INFINITY;
    for done in 0..8 {
        let offer = w.pull("a").expect("work");
        w.pass(60_000);
        w.heartbeat("a", &offer);
        let hardware = "CPU".parse().ok();
        w.finish("a", &offer, OutcomeClass::Completed, Figures { seconds: 60.0, hardware, ..Figures::default() });
        w.pass(3_000);
        match w.status("t").eta {
            Some(Ok(eta)) => {
                assert!(eta.seconds < last && eta.seconds <= eta.seconds_90, "{eta:?}");
                last = eta.seconds;
                if done >= 4 {
                    assert!((eta.seconds / (60.0 * f64::from(7 - done)) - 1.0).abs() < 0.3, "{done}: {eta:?}");
                }
            }
            Some(Err(_)) => assert!(done < 2),
            None => assert_eq!(done, 7, "over"),
        }
    }
}

#[test]
fn a_journal_that_planned_no_kinds_replays_and_its_trials_run_anywhere() {
    let mut w = World::new();
    w.submit("[0]");
    let mut entry = w.events[0].to_journal(5);
    let Some(v1::journal_event::Event::CampaignPlanned(p)) = &mut entry.event else { panic!("a submission") };
    let rest = p.rest.as_mut().expect("all but cells and trials");
    (rest.kinds, rest.kind_of_cell) = (vec![], vec![]);
    let mut state = State::default();
    state.apply(&Event::from_journal(entry).expect("reads"), Millis(0), 5).expect("fits");
    let mut again =
        World { core: Core::new(state, TERMS), now: 0, tokens: 9, events: vec![], replies: BTreeMap::new() };
    again.join("small", slot("S", SMALL));
    let offer = again.pull("small").expect("nothing is known against it");
    let explained = again.explain(&offer.trial.to_string()).expect("known");
    assert_eq!(
        (explained[0].expected.peak_bytes, explained[0].expected.peak_basis.as_str()),
        (None, "nothing is known")
    );
}
