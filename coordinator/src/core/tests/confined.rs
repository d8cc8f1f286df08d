//! What was granted to one agent is not another's: neither while it is held, nor after it was lost.

use super::*;

fn knows(world: &mut World, agent: Option<&str>, offer: &Offer) -> Reply {
    let agent = agent.map(|a| a.parse().expect("an id"));
    let (trial, attempt) = (offer.trial.clone(), offer.attempt);
    world.ask(|token| Input::Knows { token, agent, trial, attempt }).expect("answered at once")
}

#[test]
fn an_agent_does_not_take_up_what_another_has_lost() {
    let mut world = World::new();
    world.submit("[0]");
    world.register("a", vec![]);
    let offer = world.pull("a").expect("work");
    world.pass(120_000);
    assert_eq!(world.kind(&offer.trial), StateKind::Waiting, "a fell silent");
    world.register("b", vec![]);
    let verdict = world.heartbeat("b", &offer).expect("known").remove(0);
    assert_eq!(verdict.keep, Err(ANOTHERS.to_owned()));
    assert_eq!(world.kind(&offer.trial), StateKind::Waiting);
    let back = world.register("a", vec![claim(&offer)]).remove(0);
    assert_eq!((back.keep, world.kind(&offer.trial)), (Ok(()), StateKind::Leased), "it was still at work");
}

#[test]
fn whose_an_attempt_was_is_remembered() {
    let mut world = World::new();
    world.submit("[0]");
    world.register("a", vec![]);
    world.register("b", vec![]);
    let offer = world.pull("a").expect("work");
    world.report("a", &offer, OutcomeClass::Completed);
    // As after a restart: from the journal alone.
    let mut state = State::default();
    for event in &world.events {
        let read = Event::from_journal(event.to_journal(1)).expect("its own");
        state.apply(&read, Millis(0), 1).expect("fits");
    }
    world.core.replace_state(state);
    assert_eq!(knows(&mut world, Some("b"), &offer), Reply::NotItsOwn);
    assert_eq!(knows(&mut world, Some("a"), &offer), Reply::Knows(true));
    assert_eq!(knows(&mut world, None, &offer), Reply::Knows(true), "where nobody says who it is");
    let (trial, attempt) = (offer.trial.clone(), offer.attempt);
    let wastes = vec![(trial, attempt, b"{}".to_vec())];
    let told = |agent: &str| {
        let (agent, wastes) = (Some(agent.parse().expect("an id")), wastes.clone());
        |token| Input::Wasted { token, agent, wastes }
    };
    let (of_b, of_a) = (told("b"), told("a"));
    assert_eq!(world.ask(of_b), Some(Reply::NotItsOwn));
    assert_eq!(world.ask(of_a), Some(Reply::Noted));
}
