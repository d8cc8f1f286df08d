//! One story at a time.

use std::sync::Arc;

use super::*;

#[test]
fn a_campaign_runs_to_its_end() {
    let mut w = World::new();
    assert_eq!(w.submit("[0, 1]"), Reply::Submitted(Ok((4, 4))));
    w.register("a", vec![]);
    let mut seen = Vec::new();
    while let Some(offer) = w.pull("a") {
        assert_eq!(w.report("a", &offer, OutcomeClass::Completed), Reported::Recorded);
        assert_eq!(w.report("a", &offer, OutcomeClass::Completed), Reported::AlreadyRecorded, "may be repeated");
        seen.push(offer.trial);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    assert_eq!(w.events.iter().filter(|e| matches!(e, Event::TrialRecorded { .. })).count(), 4);
}

#[test]
fn submitting_again_asks_only_for_what_is_missing() {
    let mut w = World::new();
    w.submit("[0]");
    let before = w.events.len();
    assert_eq!(w.submit("[0]"), Reply::Submitted(Ok((2, 0))));
    assert_eq!(w.events.len(), before, "the same file changes nothing");
    assert_eq!(w.submit("[0, 1]"), Reply::Submitted(Ok((4, 2))));
    // A smaller file calls off what it no longer asks for.
    assert_eq!(w.submit("[1]"), Reply::Submitted(Ok((2, 0))));
    w.register("a", vec![]);
    let mut left = 0;
    while let Some(offer) = w.pull("a") {
        w.report("a", &offer, OutcomeClass::Completed);
        left += 1;
    }
    assert_eq!(left, 2);
    // And a grown one brings it back.
    w.submit("[0, 1]");
    assert!(w.pull("a").is_some());
}

#[test]
fn each_class_of_hardware_gets_a_trial_of_its_own() {
    let mut w = World::new();
    let refused = w.ask(|t| Input::Submit(t, prepared("[0]", "\"each\"")));
    assert!(
        matches!(&refused, Some(Reply::Submitted(Err(Refusal::NotNow(why)))) if why.contains("no agent")),
        "{refused:?}"
    );
    let named = w.ask(|t| Input::Submit(t, prepared("[0]", "[\"CPU\", \"GPU X\"]")));
    assert_eq!(named, Some(Reply::Submitted(Ok((4, 4)))));
    w.register("a", vec![]);
    let mut got = 0;
    while let Some(offer) = w.pull("a") {
        assert_eq!(offer.trial.hardware.as_ref().map(|h| h.as_str()), Some("CPU"));
        w.report("a", &offer, OutcomeClass::Completed);
        got += 1;
    }
    assert_eq!(got, 2, "the other class's trials wait for their hardware");
    let Some(Reply::Status(Ok(snapshot))) = w.ask(|t| Input::Status(t, None)) else { panic!("no status") };
    assert_eq!(
        snapshot.campaigns[0].waits,
        [("no connected slot is of the class GPU X; there is CPU; start an agent on such a machine".to_owned(), 2)]
            .into()
    );
}

#[test]
fn a_question_waits_for_work_and_a_lost_answer_costs_nothing() {
    let mut w = World::new();
    w.register("a", vec![]);
    let token = w.token();
    w.feed(Input::Pull { token, holder: holder("a"), wait_ms: 30_000 });
    assert!(!w.replies.contains_key(&token), "nothing to do yet");
    w.submit("[0]");
    let Some(Reply::Leased(Some(offer))) = w.replies.get(&token).cloned() else { panic!("not served") };
    // The answer never arrived; asking again gives the same lease, not another one.
    assert_eq!(w.pull("a"), Some(offer));
    // A question whose asker is gone is not granted anything.
    w.register("b", vec![]);
    let token = w.token();
    w.feed(Input::Pull { token, holder: holder("b"), wait_ms: 30_000 });
    assert!(w.replies.contains_key(&token), "the second trial");
    w.register("c", vec![]);
    let token = w.token();
    w.feed(Input::Pull { token, holder: holder("c"), wait_ms: 30_000 });
    w.feed(Input::Gone(token));
    w.submit("[0, 1]");
    assert!(!w.replies.contains_key(&token));
    // And one whose time is over is answered.
    let token = w.token();
    w.feed(Input::Cancel(Token(9_999), "t".parse().expect("a name")));
    w.feed(Input::Pull { token, holder: holder("c"), wait_ms: 30_000 });
    w.pass(29_999);
    assert!(!w.replies.contains_key(&token));
    w.pass(1);
    assert_eq!(w.replies.get(&token), Some(&Reply::Leased(None)));
}

#[test]
fn a_silent_agent_loses_its_lease_and_a_late_report_is_fenced() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    w.register("b", vec![]);
    let first = w.pull("a").expect("work");
    assert!(w.pass(59_999).is_empty(), "not yet");
    let lost = w.pass(1);
    assert!(matches!(&lost[..], [Event::LeaseReleased { cause: Release::Silent, .. }]), "{lost:?}");
    w.register("b", vec![]);
    // The trial is granted again, under a higher attempt.
    let mut second = w.pull("b").expect("work");
    if second.trial != first.trial {
        w.report("b", &second, OutcomeClass::Completed);
        second = w.pull("b").expect("work");
    }
    assert_eq!((second.trial.clone(), second.attempt), (first.trial.clone(), first.attempt.next()));
    // The first agent wakes up: it is told to stop, and its record is kept aside.
    w.register("a", vec![]);
    let verdicts = w.heartbeat("a", &first).expect("known");
    assert!(verdicts[0].keep.as_ref().expect_err("stop").contains("attempt 2 has it now"), "{verdicts:?}");
    assert_eq!(w.report("a", &first, OutcomeClass::Completed), Reported::Superseded);
    assert_eq!(w.report("b", &second, OutcomeClass::Completed), Reported::Recorded);
    assert_eq!(w.report("a", &first, OutcomeClass::Completed), Reported::Superseded);
    assert_eq!(w.core.state().trial(&first.trial).expect("known").superseded, 2);
}

#[test]
fn an_agent_that_was_given_up_too_early_takes_its_lease_up_again() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let offer = w.pull("a").expect("work");
    w.pass(60_000);
    assert_eq!(w.kind(&offer.trial), StateKind::Waiting);
    // The agent was cut off, not dead; nobody else took the trial.
    let verdicts = w.register("a", vec![claim(&offer)]);
    assert_eq!(verdicts[0].keep, Ok(()));
    assert_eq!(w.kind(&offer.trial), StateKind::Leased);
    assert_eq!(w.report("a", &offer, OutcomeClass::Completed), Reported::Recorded);
    // The same when it comes back only with the finished record.
    let offer = w.pull("a").expect("work");
    w.pass(60_000);
    assert_eq!(w.report("a", &offer, OutcomeClass::Completed), Reported::Recorded);
}

#[test]
fn a_restarted_agent_gives_back_at_once_what_it_no_longer_runs() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let offer = w.pull("a").expect("work");
    w.register("a", vec![]);
    assert_eq!(w.kind(&offer.trial), StateKind::Waiting, "without waiting for the lease's time");
    // An agent that still runs it keeps it.
    let again = w.pull("a").expect("work");
    assert_eq!(w.register("a", vec![claim(&again)])[0].keep, Ok(()));
    assert_eq!(w.kind(&again.trial), StateKind::Leased);
}

#[test]
fn a_trial_that_keeps_killing_its_workers_is_given_up() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let victim = w.pull("a").expect("work");
    for round in 1..=3 {
        let offer = if round == 1 { victim.clone() } else { w.pull("a").expect("work") };
        assert_eq!(offer.trial, victim.trial, "it goes back to its place in line");
        assert_eq!(w.kind(&victim.trial), StateKind::Leased);
        w.report("a", &offer, OutcomeClass::Crashed);
    }
    let entry = w.core.state().trial(&victim.trial).expect("known");
    assert_eq!((entry.life.state.kind(), entry.class), (StateKind::Finished, Some(OutcomeClass::Crashed)));
    // A person may open it again; results are not worth that.
    let name: CampaignName = "t".parse().expect("a name");
    let other = w.pull("a").expect("the other trial");
    w.report("a", &other, OutcomeClass::DoesNotFit);
    let retry = |failed, missing| {
        let campaign = name.clone();
        move |token| Input::Retry { token, campaign, failed, missing }
    };
    assert_eq!(w.ask(retry(false, true)), Some(Reply::Changed(Ok(0))));
    assert_eq!(w.ask(retry(true, false)), Some(Reply::Changed(Ok(1))));
    assert_eq!(w.pull("a").expect("open again").trial, victim.trial);
}

#[test]
fn cancelling_calls_off_what_has_not_ended() {
    let mut w = World::new();
    w.submit("[0, 1]");
    w.register("a", vec![]);
    let done = w.pull("a").expect("work");
    w.report("a", &done, OutcomeClass::Completed);
    let running = w.pull("a").expect("work");
    let name: CampaignName = "t".parse().expect("a name");
    assert_eq!(w.ask(|t| Input::Cancel(t, name.clone())), Some(Reply::Changed(Ok(3))));
    assert_eq!(w.ask(|t| Input::Cancel(t, name.clone())), Some(Reply::Changed(Ok(0))));
    assert!(w.heartbeat("a", &running).expect("known")[0].keep.is_err());
    assert_eq!(w.report("a", &running, OutcomeClass::Cancelled), Reported::NotWanted);
    assert_eq!(w.kind(&done.trial), StateKind::Finished);
    assert_eq!(w.kind(&running.trial), StateKind::Cancelled);
    let unknown = w.ask(|t| Input::Cancel(t, "tt".parse().expect("a name")));
    assert!(matches!(unknown, Some(Reply::Changed(Err(r))) if r.to_string().contains("did you mean \"t\"")));
}

#[test]
fn a_restarted_coordinator_asks_agents_to_introduce_themselves_and_keeps_their_leases() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let offer = w.pull("a").expect("work");
    // Restart: the same events, a fresh clock, no agents.
    let mut state = State::default();
    for event in &w.events {
        state.apply(event, Millis(0), 1_000).expect("the journal fits");
    }
    let mut w = World { core: Core::new(state, TERMS), now: 0, tokens: 100, events: vec![], replies: BTreeMap::new() };
    // Whose hardware nobody knows yet is lent nothing, not even what it has.
    assert!(w.pull("a").is_none());
    assert_eq!(w.heartbeat("a", &offer), None, "register again");
    assert!(w.pass(59_999).is_empty(), "leases get their full time anew");
    assert_eq!(w.register("a", vec![claim(&offer)])[0].keep, Ok(()));
    assert_eq!(w.report("a", &offer, OutcomeClass::Completed), Reported::Recorded);
}

#[test]
fn what_failed_in_one_place_is_tried_elsewhere_first() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("broken", vec![]);
    w.register("sound", vec![]);
    let crashed = w.pull("broken").expect("work");
    w.report("broken", &crashed, OutcomeClass::Crashed);
    let other = w.pull("broken").expect("the other trial");
    assert_ne!(other.trial, crashed.trial, "it crashed here, and there is another agent");
    w.report("broken", &other, OutcomeClass::BadInput);
    assert_eq!(w.kind(&other.trial), StateKind::Waiting, "another machine may have the data");
    assert!(w.pull("broken").is_none(), "both failed here");
    let mut done = Vec::new();
    while let Some(offer) = w.pull("sound") {
        w.report("sound", &offer, OutcomeClass::Completed);
        done.push(offer.trial);
    }
    assert_eq!(done.len(), 2);
}

#[test]
fn bad_input_everywhere_is_a_result_and_costs_no_losses() {
    let mut w = World::new();
    w.submit("[0]");
    for agent in ["a", "b", "c", "d"] {
        w.register(agent, vec![]);
    }
    let victim = w.pull("a").expect("work");
    w.report("a", &victim, OutcomeClass::BadInput);
    for agent in ["b", "c", "d"] {
        assert_eq!(w.kind(&victim.trial), StateKind::Waiting);
        let mut offer = w.pull(agent).expect("work");
        if offer.trial != victim.trial {
            w.report(agent, &offer, OutcomeClass::Completed);
            offer = w.pull(agent).expect("the victim");
        }
        w.report(agent, &offer, OutcomeClass::BadInput);
    }
    assert_eq!(w.core.state().trial(&victim.trial).expect("known").class, Some(OutcomeClass::BadInput));
    // Opened again, it may go anywhere again.
    let campaign = "t".parse().expect("a name");
    w.ask(|token| Input::Retry { token, campaign, failed: true, missing: false });
    assert_eq!(w.pull("a").expect("open again").trial, victim.trial);
}

#[test]
fn a_coordinator_that_was_stopped_for_a_while_does_not_blame_its_agents() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let offer = w.pull("a").expect("work");
    w.pass(500);
    w.sleep(3_600_000);
    assert!(w.pass(500).is_empty(), "asleep for an hour");
    assert_eq!(w.heartbeat("a", &offer).expect("known")[0].keep, Ok(()));
    // Awake, silence counts again.
    assert!(w.pass(59_500).is_empty());
    assert_eq!(w.pass(500).len(), 1);
}

#[test]
fn a_repeated_crash_report_counts_once() {
    let mut w = World::new();
    w.submit("[0]");
    w.register("a", vec![]);
    let offer = w.pull("a").expect("work");
    assert_eq!(w.report("a", &offer, OutcomeClass::Crashed), Reported::Recorded);
    // The answer got lost.
    assert_eq!(w.report("a", &offer, OutcomeClass::Crashed), Reported::NotWanted);
    assert_eq!(w.core.state().trial(&offer.trial).expect("known").life.losses, 1);
    // A heartbeat that was overtaken does not bring the attempt back.
    assert!(w.heartbeat("a", &offer).expect("known")[0].keep.is_err());
    assert_eq!(w.kind(&offer.trial), StateKind::Waiting);
}

#[test]
fn a_campaign_can_be_called_off_opened_and_called_off_again() {
    let mut w = World::new();
    w.submit("[0, 1]");
    let name: CampaignName = "t".parse().expect("a name");
    let cancel = |w: &mut World| w.ask(|t| Input::Cancel(t, name.clone()));
    assert_eq!(cancel(&mut w), Some(Reply::Changed(Ok(4))));
    let campaign = name.clone();
    let retried = w.ask(|token| Input::Retry { token, campaign, failed: false, missing: true });
    assert_eq!(retried, Some(Reply::Changed(Ok(4))));
    assert_eq!(cancel(&mut w), Some(Reply::Changed(Ok(4))));
    // Submitting the same file opens what was called off, too.
    w.submit("[0, 1]");
    w.register("a", vec![]);
    assert!(w.pull("a").is_some());
}

#[test]
fn a_machine_that_is_off_today_stays_in_the_comparison() {
    let mut w = World::new();
    w.register("a", vec![]);
    let each = |w: &mut World| w.ask(|t| Input::Submit(t, prepared("[0]", "\"each\"")));
    assert_eq!(each(&mut w), Some(Reply::Submitted(Ok((2, 2)))));
    let done = w.pull("a").expect("work");
    w.report("a", &done, OutcomeClass::Completed);
    w.pass(150_000);
    assert!(w.core.classes(&spec::Select::default()).is_empty(), "it is off");
    assert_eq!(each(&mut w), Some(Reply::Submitted(Ok((2, 0)))));
}

#[test]
fn the_latest_submission_says_where_the_data_is() {
    let mut w = World::new();
    w.submit("[0]");
    let mut moved = prepared("[0]", "\"any\"");
    moved.toml.push_str("# moved\n");
    for cell in &mut moved.plan.cells {
        cell.locator = Arc::new(DatasetName::try_from("/new/flowers".to_owned()).expect("a path"));
    }
    w.ask(|t| Input::Submit(t, moved));
    w.register("a", vec![]);
    assert_eq!(w.pull("a").expect("work").cell.dataset.as_ref(), "/new/flowers");
}

#[test]
fn an_introduction_that_was_overtaken_takes_nothing_away() {
    let mut w = World::new();
    w.submit("[0]");
    w.register_as("a", vec![], 2);
    let offer = w.pull("a").expect("work");
    // It was sent before the other one, and claims what was held then: nothing.
    assert_eq!(w.register_as("a", vec![], 1), []);
    assert_eq!(w.kind(&offer.trial), StateKind::Leased);
    assert_eq!(w.report("a", &offer, OutcomeClass::Completed), Reported::Recorded);
    // One that is later, or of an agent that does not count, is heard.
    let offer = w.pull("a").expect("work");
    w.register_as("a", vec![], 3);
    assert_eq!(w.kind(&offer.trial), StateKind::Waiting);
    let offer = w.pull("a").expect("work");
    w.register_as("a", vec![], 0);
    assert_eq!(w.kind(&offer.trial), StateKind::Waiting);
}
