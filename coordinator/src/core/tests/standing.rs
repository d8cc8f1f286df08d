//! What stands where is counted as things happen: held to a recount, campaigns sharing trials.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Submit { name: u8, first: u8, seeds: u8, priority: i8 },
    Pull(u8),
    Report(u8, u8),
    Cancel(u8),
    Retry(u8),
    Pass(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0u8..3, 0u8..3, 1u8..4, -1i8..2)
            .prop_map(|(name, first, seeds, priority)| Act::Submit { name, first, seeds, priority }),
        6 => (0u8..3).prop_map(Act::Pull),
        5 => (0u8..3, 0u8..4).prop_map(|(a, class)| Act::Report(a, class)),
        1 => (0u8..3).prop_map(Act::Cancel),
        1 => (0u8..3).prop_map(Act::Retry),
        1 => (0u32..90_000).prop_map(Act::Pass),
    ]
}

fn name(n: u8) -> CampaignName {
    ["a", "b", "c"][n as usize].parse().expect("a name")
}

/// Campaigns of one matrix and overlapping seeds.
fn submit(w: &mut World, name: u8, first: u8, seeds: u8, priority: i8) {
    let seeds: Vec<String> = (first..first + seeds).map(|s| s.to_string()).collect();
    let toml = format!(
        "name = \"{}\"\nseeds = [{}]\npriority = {priority}\n[matrix]\nmethod = [\"full\", \"lora\"]\n\
         backbone = \"vit_micro\"\ndataset = \"textures\"\n[train]\nsteps = 10\n",
        self::name(name),
        seeds.join(", ")
    );
    let campaign = spec::Campaign::parse("t.toml", &toml).expect("valid");
    let identity = DatasetIdentity { fingerprint: "0".repeat(64), classes: 8, train: 10, test: 10 };
    let datasets = [(DatasetName::Textures("textures".into()), Ok(identity))].into();
    let plan = plan(&campaign, &Resolution { datasets, ..Resolution::default() });
    // What the cells need is estimated once for all of these tests: it is not what they are about.
    let kinds = prepared("[0]", "\"any\"").kinds.clone();
    let of_cell = (0..plan.cells.len() as u32).map(|i| i * 2 / plan.cells.len() as u32).collect();
    let kinds = fleet_common::plan::Kinds { kinds: kinds.kinds, of_cell };
    w.ask(|t| Input::Submit(t, Box::new(Prepared { campaign, toml, plan, kinds })));
}

/// What stands where, trial by trial.
fn recount(state: &State, name: &CampaignName) -> Standing {
    let mut standing = Standing::default();
    for id in &state.campaigns()[name].trials {
        let entry = state.trial(id).expect("known");
        match entry.life.state.kind() {
            StateKind::Waiting => standing.waiting += 1,
            StateKind::Leased => {
                standing.leased.insert(id.clone());
            }
            StateKind::Finished => *standing.finished.entry(entry.class.expect("ended")).or_default() += 1,
            StateKind::Cancelled => standing.cancelled += 1,
        }
        let place = state.place(id).filter(|place| state.queue().contains(place, id));
        if let Some(place) = place.filter(|place| entry.wanted_by.len() > 1 && place.account != *name) {
            *standing.elsewhere.entry((place.account, place.group)).or_default() += 1;
        }
    }
    standing
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_stands_where_is_what_a_recount_finds(acts in prop::collection::vec(act(), 1..60)) {
        let mut w = World::new();
        let mut held: Vec<Option<Offer>> = vec![None; 3];
        let agent = |i: u8| format!("agent-{i}");
        (0..3).for_each(|a| drop(w.register(&agent(a), vec![])));
        for act in acts {
            match act {
                Act::Submit { name, first, seeds, priority } => submit(&mut w, name, first, seeds, priority),
                Act::Pull(a) => held[a as usize] = w.pull(&agent(a)).or(held[a as usize].take()),
                Act::Report(a, class) => {
                    use OutcomeClass::{BadInput, Completed, Crashed, DoesNotFit};
                    if let Some(offer) = held[a as usize].take() {
                        w.report(&agent(a), &offer, [Completed, Crashed, DoesNotFit, BadInput][class as usize]);
                    }
                }
                Act::Cancel(n) => drop(w.ask(|t| Input::Cancel(t, name(n)))),
                Act::Retry(n) => {
                    drop(w.ask(|token| Input::Retry { token, campaign: name(n), failed: true, missing: true }));
                }
                Act::Pass(ms) => drop(w.pass(u64::from(ms))),
            }
            let state = w.core.state();
            for name in state.campaigns().keys() {
                prop_assert_eq!(state.standing(name), Some(&recount(state, name)), "of {}", name);
            }
        }
        // The same from what the journal and a snapshot keep.
        let mut replayed = State::default();
        for event in &w.events {
            let kept = Event::from_journal(event.to_journal(5)).expect("our own event");
            replayed.apply(&kept, Millis(0), 5).expect("fits");
        }
        let mut restored = Restored::default();
        replayed.parts(|part| restored.add(part, Millis(0))).expect("its own parts");
        let restored = restored.finish();
        for name in replayed.campaigns().keys() {
            prop_assert_eq!(replayed.standing(name), w.core.state().standing(name));
            prop_assert_eq!(restored.standing(name), replayed.standing(name));
        }
    }
}
