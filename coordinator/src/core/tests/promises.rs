//! Any stories at all, held to what is always promised.

use fleet_common::record_set::RecordSet;
use proptest::prelude::*;

use super::*;

/// What a random story is made of.
#[derive(Debug, Clone)]
enum Act {
    Submit(u8),
    Register(u8, bool),
    Pull(u8, u32),
    Heartbeat(u8),
    Report(u8, u8),
    Fail(u8, bool),
    Pass(u32),
    Sleep(u32),
    Cancel,
    Retry,
    Import(u8, u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (1u8..4).prop_map(Act::Submit),
        2 => (0u8..3, any::<bool>()).prop_map(|(a, honest)| Act::Register(a, honest)),
        6 => (0u8..3, prop_oneof![Just(0), 0u32..30_000]).prop_map(|(a, wait)| Act::Pull(a, wait)),
        3 => (0u8..3).prop_map(Act::Heartbeat),
        5 => (0u8..3, 0u8..8).prop_map(|(a, which)| Act::Report(a, which)),
        2 => (0u8..3, any::<bool>()).prop_map(|(a, crashed)| Act::Fail(a, crashed)),
        3 => (0u32..90_000).prop_map(Act::Pass),
        1 => (0u32..90_000).prop_map(Act::Sleep),
        1 => Just(Act::Cancel),
        1 => Just(Act::Retry),
        1 => (0u8..3, 1u8..4).prop_map(|(name, content)| Act::Import(name, content)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, in whatever order: no trial is recorded twice, no slot holds two trials and no trial two
    /// slots, exactly the waiting trials are in line, every question is answered in time, no name is a campaign's and a
    /// set's, a set never changes, and replaying the events, or a snapshot of them, gives the same state.
    #[test]
    fn any_story_keeps_the_promises(acts in prop::collection::vec(act(), 1..120)) {
        let mut w = World::new();
        // What each agent believes it was granted, the latest last.
        let mut believes: Vec<Vec<Offer>> = vec![Vec::new(); 3];
        let agent = |i: u8| format!("agent-{i}");
        let mut pulls: Vec<(Token, u8)> = Vec::new();
        for act in acts {
            match act {
                Act::Submit(n) => {
                    let seeds: Vec<String> = (0..n).map(|s| s.to_string()).collect();
                    w.submit(&format!("[{}]", seeds.join(", ")));
                }
                Act::Register(a, honest) => {
                    let held = if honest { believes[a as usize].last().map(claim).into_iter().collect() } else { vec![] };
                    w.register(&agent(a), held);
                }
                Act::Pull(a, wait) => {
                    let token = w.token();
                    pulls.push((token, a));
                    w.feed(Input::Pull { token, holder: holder(&agent(a)), wait_ms: wait.into() });
                }
                Act::Heartbeat(a) => {
                    if let Some(offer) = believes[a as usize].last().cloned() {
                        w.heartbeat(&agent(a), &offer);
                    }
                }
                Act::Report(a, which) => {
                    let known = &believes[a as usize];
                    if !known.is_empty() {
                        let offer = known[known.len() - 1 - (which as usize % known.len())].clone();
                        w.report(&agent(a), &offer, OutcomeClass::Completed);
                    }
                }
                Act::Fail(a, crashed) => {
                    if let Some(offer) = believes[a as usize].last().cloned() {
                        let class = if crashed { OutcomeClass::Crashed } else { OutcomeClass::BadInput };
                        w.report(&agent(a), &offer, class);
                    }
                }
                Act::Pass(ms) => {
                    w.pass(u64::from(ms));
                }
                Act::Sleep(ms) => w.sleep(u64::from(ms)),
                Act::Cancel => {
                    w.ask(|t| Input::Cancel(t, "t".parse().expect("a name")));
                }
                Act::Retry => {
                    let campaign = "t".parse().expect("a name");
                    w.ask(|token| Input::Retry { token, campaign, failed: true, missing: true });
                }
                Act::Import(name, content) => {
                    // One of the names is that of the campaign.
                    let name = ["t", "u", "v"][name as usize].parse().expect("a name");
                    let documents = (0..content).map(|n| (u64::from(n) + 1, vec![n; 3])).collect();
                    let set = RecordSet { documents, content: content.to_string() };
                    w.ask(|token| Input::Import { token, name, file_name: "f".into(), set });
                }
            }
            // Answers arrive.
            pulls.retain(|(token, a)| match w.replies.get(token) {
                Some(Reply::Leased(offer)) => {
                    believes[*a as usize].extend(offer.clone());
                    false
                }
                _ => true,
            });
            check_now(&w)?;
        }
        check_history(&w)?;
        w.pass(60_000);
        for (token, _) in pulls {
            prop_assert!(w.replies.contains_key(&token), "a question is never answered");
        }
    }
}

fn check_now(w: &World) -> Result<(), TestCaseError> {
    let state = w.core.state();
    let mut trials = std::collections::BTreeSet::new();
    for (holder, trial) in state.leases() {
        prop_assert!(trials.insert(trial.clone()), "{} is lent twice", trial);
        let life = &state.trial(trial).expect("known").life;
        let attempt = life.attempt.expect("granted");
        prop_assert!(life.is_held(holder, attempt));
    }
    for id in state.campaigns().values().flat_map(|c| &c.trials) {
        let entry = state.trial(id).expect("known");
        let leased = entry.life.state.kind() == StateKind::Leased;
        prop_assert_eq!(trials.contains(id), leased, "{} is held by a slot", id);
        let waits = entry.life.state.kind() == StateKind::Waiting;
        let in_line = state.place(id).is_some_and(|place| state.queue().contains(&place, id));
        prop_assert_eq!(in_line, waits, "{} in line", id);
    }
    Ok(())
}

fn check_history(w: &World) -> Result<(), TestCaseError> {
    let mut recorded: BTreeMap<TrialId, Attempt> = BTreeMap::new();
    let mut latest: BTreeMap<TrialId, Attempt> = BTreeMap::new();
    let mut sets = std::collections::BTreeSet::new();
    for event in &w.events {
        match event {
            Event::LeaseGranted { trial, attempt, .. } => {
                let before = latest.insert(trial.clone(), *attempt);
                prop_assert!(before.is_none_or(|b| b < *attempt), "attempts only rise");
                prop_assert!(!recorded.contains_key(trial), "a recorded trial is not lent again");
            }
            Event::TrialRecorded { trial, attempt, .. } => {
                prop_assert!(recorded.insert(trial.clone(), *attempt).is_none(), "{} is recorded twice", trial);
                prop_assert_eq!(latest.get(trial), Some(attempt), "only the latest attempt is recorded");
            }
            Event::TrialRetried { trial, .. } => {
                recorded.remove(trial);
            }
            Event::SetImported { name, .. } => {
                prop_assert!(sets.insert(name.clone()), "{} is imported twice", name);
            }
            _ => {}
        }
    }
    let mut replayed = State::default();
    for event in &w.events {
        let wire = Event::from_journal(event.to_journal(5)).expect("our own event");
        prop_assert_eq!(&wire, event, "the journal keeps every part");
        replayed.apply(&wire, Millis(0), 5).expect("fits");
    }
    for id in w.core.state().campaigns().values().flat_map(|c| &c.trials) {
        let (a, b) = (w.core.state().trial(id).expect("known"), replayed.trial(id).expect("known"));
        prop_assert_eq!(a.life.state.kind(), b.life.state.kind());
        prop_assert_eq!((a.life.attempt, a.life.losses, a.class), (b.life.attempt, b.life.losses, b.class));
    }
    prop_assert_eq!(w.core.state().queue(), replayed.queue());
    let mut restored = Restored::default();
    replayed.parts(|part| restored.add(part, Millis(0))).expect("its own parts");
    prop_assert_eq!(&restored.finish(), &replayed, "a snapshot keeps every part");
    let of = |state: &State| -> Vec<(CampaignName, String)> {
        state.imports().sets().iter().map(|(name, set)| (name.clone(), set.content.clone())).collect()
    };
    prop_assert_eq!(of(w.core.state()), of(&replayed));
    prop_assert!(sets.iter().all(|name| !replayed.campaigns().contains_key(name)));
    Ok(())
}
