//! States in the artifact store: which is offered to whom.

use super::*;

fn state(attempt: Attempt, step: u32, hardware: &str) -> Resumable {
    Resumable {
        attempt,
        step,
        artifact: format!("states/{step}"),
        bytes: 9,
        hardware: hardware.parse().expect("a class"),
    }
}

fn save(w: &mut World, agent: &str, offer: &Offer, step: u32) -> Saved {
    // The coordinator takes one per trial and moment.
    w.now += 1_000;
    let (trial, state) = (offer.trial.clone(), state(offer.attempt, step, "CPU"));
    match w.ask(|token| Input::Saved { token, holder: holder(agent), trial, state }) {
        Some(Reply::Saved(saved)) => saved,
        other => panic!("{other:?}"),
    }
}

fn give_back(w: &mut World, agent: &str, offer: &Offer) {
    let (trial, attempt) = (offer.trial.clone(), offer.attempt);
    w.ask(|token| Input::Release { token, holder: holder(agent), trial, attempt, reason: "bye".into() });
}

/// An agent whose slot is of another class.
fn register_as(w: &mut World, agent: &str, class: &str) {
    let slots = vec![SlotInfo {
        slot: "cpu".parse().expect("a slot"),
        hardware: class.parse().expect("a class"),
        memory_bytes: 1 << 30,
        about: SlotAbout::default(),
    }];
    let agent = agent.parse().expect("an id");
    let (version, host, held) = ("1".into(), "h".into(), Vec::new());
    w.ask(|token| Input::Register { token, agent, version, host, slots, held, number: 0, content: Default::default() });
}

/// A world in which `a` has begun the only trial.
fn begun() -> (World, Offer) {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", Vec::new());
    let first = w.pull("a").expect("there is work");
    assert_eq!(first.resume, None);
    (w, first)
}

/// The next offer of the trial of `first` to `agent`; the campaign's other trial is finished on the way.
fn again(w: &mut World, agent: &str, first: &Offer) -> Offer {
    loop {
        let offer = w.pull(agent).expect("there is work");
        if offer.trial == first.trial {
            return offer;
        }
        w.report(agent, &offer, OutcomeClass::Completed);
    }
}

#[test]
fn the_latest_state_goes_to_a_slot_of_its_class_and_to_no_other() {
    let (mut w, first) = begun();
    let noted = |replaced: Option<&str>| Saved::Noted { replaced: replaced.map(str::to_owned) };
    assert_eq!(save(&mut w, "a", &first, 10), noted(None));
    assert_eq!(save(&mut w, "a", &first, 20), noted(Some("states/10")));
    assert_eq!(save(&mut w, "a", &first, 20), noted(None), "told twice");
    assert!(
        matches!(save(&mut w, "a", &first, 15), Saved::NotWanted { reason: why, overtaken: false } if why.contains("step 20 of attempt 1"))
    );
    assert!(matches!(save(&mut w, "b", &first, 30), Saved::NotWanted { .. }), "it is not b's");
    give_back(&mut w, "a", &first);
    assert_eq!(save(&mut w, "a", &first, 25), noted(Some("states/20")), "nobody else has begun");
    w.register("b", Vec::new());
    let second = again(&mut w, "b", &first);
    assert_eq!(second.resume, Some(Ok(state(first.attempt, 25, "CPU"))));
    assert_eq!(w.pull("b"), Some(second.clone()), "an answer that got lost is the same again");
    assert!(
        matches!(save(&mut w, "a", &first, 99), Saved::NotWanted { reason: why, overtaken: true } if why.contains("attempt 1 is over"))
    );
    give_back(&mut w, "b", &second);
    register_as(&mut w, "c", "another");
    let third = again(&mut w, "c", &first);
    let why = third.resume.clone().expect("there is a state").expect_err("of another class");
    assert!(why.contains("attempt 1") && why.contains("step 25") && why.contains("CPU"), "{why}");
    give_back(&mut w, "c", &third);
    let fourth = again(&mut w, "b", &first);
    assert!(matches!(fourth.resume, Some(Ok(state)) if state.step == 25), "c left none");
}

#[test]
fn an_attempt_that_crashes_without_getting_further_takes_the_state_with_it() {
    let (mut w, first) = begun();
    save(&mut w, "a", &first, 10);
    w.report("a", &first, OutcomeClass::Crashed);
    let second = again(&mut w, "a", &first);
    assert!(matches!(&second.resume, Some(Ok(s)) if s.step == 10), "the first one had left it before its crash");
    w.report("a", &second, OutcomeClass::Crashed);
    assert_eq!(again(&mut w, "a", &first).resume, None, "the second one may have crashed at it");
}

#[test]
fn states_of_ended_trials_are_not_wanted_and_the_journal_does_not_grow_by_telling_fast() {
    let (mut w, first) = begun();
    save(&mut w, "a", &first, 10);
    let (trial, next) = (first.trial.clone(), state(first.attempt, 11, "CPU"));
    let told = w.ask(|token| Input::Saved { token, holder: holder("a"), trial, state: next });
    assert_eq!(told, Some(Reply::Saved(Saved::TooSoon)));
    let names = |w: &mut World| w.ask(Input::Resumables);
    assert_eq!(names(&mut w), Some(Reply::Resumables(vec!["states/10".into()])));
    w.report("a", &first, OutcomeClass::Completed);
    assert_eq!(names(&mut w), Some(Reply::Resumables(Vec::new())));
    assert!(
        matches!(save(&mut w, "a", &first, 30), Saved::NotWanted { reason: why, overtaken: true } if why == "it is finished")
    );
    let second = w.pull("a").expect("there is another");
    save(&mut w, "a", &second, 5);
    w.ask(|t| Input::Cancel(t, "t".parse().expect("a name")));
    assert_eq!(names(&mut w), Some(Reply::Resumables(Vec::new())));
}

#[test]
fn a_trial_with_a_state_goes_first_where_it_goes_on_and_last_where_it_would_start_over() {
    let mut w = World::new();
    // So many that the end of the work, where lengths decide, is far.
    w.submit("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
    w.register("a", Vec::new());
    w.register("b", Vec::new());
    let (first, other) = (w.pull("a").expect("work"), w.pull("b").expect("work"));
    save(&mut w, "a", &first, 10);
    for (agent, offer) in [("a", &first), ("b", &other)] {
        give_back(&mut w, agent, offer);
    }
    register_as(&mut w, "c", "another");
    let offered = |w: &mut World, agent: &str| {
        let offer = w.pull(agent).expect("work");
        give_back(w, agent, &offer);
        offer.trial
    };
    assert_ne!(offered(&mut w, "c"), first.trial);
    assert_eq!(offered(&mut w, "b"), first.trial, "fetched, and gone on from");
    assert_eq!(offered(&mut w, "a"), first.trial, "there already");
    let score = |w: &World, agent: &str| w.core.is_where_its_state_counts(&first.trial, &holder(agent));
    assert_eq!(["a", "b", "c"].map(|agent| score(&w, agent)), [3, 2, 0]);
}
