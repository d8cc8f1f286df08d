//! What agents have is kept as they last said it, and for as long as they are here.

use std::collections::BTreeSet;

use fleet_content::Item;

use super::*;

fn dataset(digit: char) -> Item {
    Item::Dataset(digit.to_string().repeat(64).parse().expect("a hash"))
}

impl World {
    fn tell(&mut self, agent: &AgentId, content: Option<(u64, BTreeSet<Item>)>) {
        let agent = agent.clone();
        self.ask(|token| Input::Heartbeat { token, agent, running: vec![], content });
    }

    /// Slots ask for work, and all of them wait.
    fn wait_all(&mut self, agents: [&str; 2]) -> [Token; 2] {
        agents.map(|agent| {
            let token = self.token();
            self.feed(Input::Pull { token, holder: holder(agent), wait_ms: 10_000 });
            assert!(!self.replies.contains_key(&token), "there is nothing to do");
            token
        })
    }
}

#[test]
fn a_cell_lacks_nothing_where_its_data_is() {
    let mut world = World::new();
    world.submit("[0]");
    world.register("a", vec![]);
    world.register("b", vec![]);
    let offer = world.pull("a").expect("work");
    let [a, b] = ["a", "b"].map(|id| id.parse::<AgentId>().expect("an id"));
    assert_eq!(wanted(&offer.cell), [dataset('0')]);
    let lacks = |world: &World| [&a, &b].map(|agent| world.core.lacks(agent, &offer.cell));
    assert_eq!(lacks(&world), [1, 1]);
    world.tell(&b, Some((0, [dataset('0'), dataset('1')].into())));
    assert_eq!(lacks(&world), [1, 0]);
    world.tell(&b, None);
    assert_eq!(lacks(&world), [1, 0], "as told before");
    world.tell(&b, Some((0, BTreeSet::new())));
    assert_eq!(lacks(&world), [1, 1]);
    // Who is not known is not noted: it is asked to introduce itself.
    let stranger: AgentId = "c".parse().expect("an id");
    world.tell(&stranger, Some((0, [dataset('0')].into())));
    assert_eq!(world.core.lacks(&stranger, &offer.cell), 1);
}

#[test]
fn what_was_overtaken_says_nothing_any_more() {
    let mut world = World::new();
    let a: AgentId = "a".parse().expect("an id");
    world.register("a", vec![]);
    let has = |world: &World, digit| world.core.content_of(&a) == Some(&[dataset(digit)].into());
    world.tell(&a, Some((7, [dataset('7')].into())));
    world.tell(&a, Some((6, [dataset('6')].into())));
    assert!(has(&world, '7'));
    world.tell(&a, Some((8, [dataset('8')].into())));
    assert!(has(&world, '8'));
}

/// Whatever the agents are called: of two equal slots that wait, the one with the data gets the trial.
#[test]
fn of_two_equal_slots_the_one_with_the_data_gets_the_trial() {
    for with in ["a", "b"] {
        let mut world = World::new();
        world.submit("[0]");
        for agent in ["a", "b", "y", "z"] {
            world.register(agent, vec![]);
        }
        world.pull("z").expect("one of two");
        let offer = world.pull("y").expect("the other");
        world.tell(&with.parse().expect("an id"), Some((1, [dataset('0')].into())));
        let waiting = world.wait_all(["a", "b"]);
        let (trial, attempt) = (offer.trial, offer.attempt);
        let reason = "its machine is needed".into();
        world.ask(|token| Input::Release { token, holder: holder("y"), trial, attempt, reason });
        let got = waiting.map(|token| matches!(world.replies.get(&token), Some(Reply::Leased(Some(_)))));
        assert_eq!(got, [with == "a", with == "b"]);
    }
}

#[test]
fn no_trial_waits_for_a_busy_slot_because_its_data_is_there() {
    let mut world = World::new();
    world.register("a", vec![]);
    world.register("b", vec![]);
    let a: AgentId = "a".parse().expect("an id");
    world.tell(&a, Some((1, [dataset('0')].into())));
    world.submit("[0, 1]");
    world.pull("a").expect("work, where its data is");
    world.pull("b").expect("work as well: data can be fetched, and time cannot");
}
