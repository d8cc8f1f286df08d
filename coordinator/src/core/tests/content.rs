//! What agents have is kept as they last said it, and for as long as they are here.

use std::collections::HashSet;

use fleet_content::Item;

use super::*;

fn dataset(digit: char) -> Item {
    Item::Dataset(digit.to_string().repeat(64).parse().expect("a hash"))
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
    let tell = |world: &mut World, agent: &AgentId, content: Option<HashSet<Item>>| {
        let agent = agent.clone();
        world.ask(|token| Input::Heartbeat { token, agent, running: vec![], content });
    };
    tell(&mut world, &b, Some([dataset('0'), dataset('1')].into()));
    assert_eq!(lacks(&world), [1, 0]);
    tell(&mut world, &b, None);
    assert_eq!(lacks(&world), [1, 0], "as told before");
    tell(&mut world, &b, Some(HashSet::new()));
    assert_eq!(lacks(&world), [1, 1]);
    // Who is not known is not noted: it is asked to introduce itself.
    let stranger: AgentId = "c".parse().expect("an id");
    tell(&mut world, &stranger, Some([dataset('0')].into()));
    assert_eq!(world.core.lacks(&stranger, &offer.cell), 1);
}
