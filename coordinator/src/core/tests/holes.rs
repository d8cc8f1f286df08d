//! Journals that have lost events: what follows must leave a state that another start would have, too.

use super::*;

/// The events of these acts, without those that `lost` picks.
fn folded(events: &[Event], lost: impl Fn(&Event) -> bool) -> State {
    let mut state = State::default();
    for event in events.iter().filter(|e| !lost(e)) {
        let _ = state.apply(event, Millis(0), 7);
    }
    state
}

/// What a start from a snapshot would have.
fn restarted(state: &State) -> State {
    let mut restored = Restored::default();
    state.parts(|part| restored.add(part, Millis(0))).expect("our own snapshot");
    restored.finish()
}

#[test]
fn a_slot_that_was_lent_another_trial_holds_that_one_alone() {
    let mut w = World::new();
    w.submit("[0, 1]");
    w.register("a", vec![]);
    let first = w.pull("a").expect("work");
    assert_eq!(w.report("a", &first, OutcomeClass::Completed), Reported::Recorded);
    let second = w.pull("a").expect("work");
    let mut state = folded(&w.events, |e| matches!(e, Event::TrialRecorded { .. }));
    assert_eq!(state.held_by(&holder("a")), Some(&second.trial));
    let waits = state.trial(&first.trial).expect("known");
    assert_eq!((waits.life.state.kind(), waits.life.losses), (StateKind::Waiting, 0));
    assert_eq!(restarted(&state), state);
    let (trial, attempt) = (second.trial.clone(), second.attempt);
    let ends = Event::LeaseReleased { trial, attempt, cause: Release::Returned, reason: String::new() };
    state.apply(&ends, Millis(0), 8).expect("it was held");
    assert_eq!(state.held_by(&holder("a")), None);
}

/// A campaign's first submission is lost, a trial of it that another one shares is retried, and it is submitted again
/// with a higher priority: the trial stands in line once, where it belongs.
#[test]
fn what_was_retried_for_a_lost_campaign_stands_in_line_once() {
    let mut w = World::new();
    w.submit("[0]");
    let Some(Event::CampaignSubmitted(first)) = w.events.first().cloned() else { panic!("submitted") };
    let trial = first.trials[0].clone();
    let named = |name: &str, priority: i64, trials: &[TrialId]| {
        let name = name.parse().expect("a name");
        let scheduling = Scheduling { priority: priority.try_into().expect("in bounds"), ..first.scheduling.clone() };
        Event::CampaignSubmitted(Box::new(Submission { name, scheduling, trials: trials.to_vec(), ..*first.clone() }))
    };
    let finished = Event::TrialGivenUp { trial: trial.clone(), losses: 3, reason: String::new() };
    let retried = Event::TrialRetried { trial: trial.clone(), campaign: "other".parse().expect("a name") };
    for lists in [&first.trials[..0], &first.trials[..1], &first.trials[1..]] {
        for known in [&[][..], &first.trials[1..]] {
            let mut events = vec![named("t", 0, &first.trials)];
            events.extend((!known.is_empty()).then(|| named("other", 0, known)));
            events.extend([finished.clone(), retried.clone(), named("other", 2, lists)]);
            let state = folded(&events, |_| false);
            assert_eq!(restarted(&state), state, "{lists:?} {known:?}");
        }
    }
}
