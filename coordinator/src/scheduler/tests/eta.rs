//! Looking ahead over fleets of any size.

use super::*;

/// How long so much work takes on so many servers, half of them twice as fast, against what they can do together.
fn over_ideal(servers: usize, items: u32) -> f64 {
    let mut estimates = Estimates::default();
    let kinds: Vec<KindId> =
        (0..20).map(|n| kind(&mut estimates, &format!("k{n}"), GIB, &[("slow", 60.0), ("fast", 30.0)])).collect();
    let fleet = fleet((0..servers).map(|n| server(if n % 2 == 0 { "slow" } else { "fast" }, 8)));
    let mut queue = Queue::default();
    queue.open(campaign("c"), account(0));
    for n in 0..items {
        let trial = trial(n, None, 0);
        queue.insert(place("c", kinds[n as usize % kinds.len()], &trial), trial);
    }
    let mut free = vec![0; fleet.kinds()];
    fleet.servers().keys().filter_map(|holder| fleet.kind_of(holder)).for_each(|kind| free[kind] += 1);
    let eta = eta(View { queue: &queue, fleet: &fleet, estimates: &estimates }, &[], &free);
    let ideal = f64::from(items) / (servers as f64 / 2.0 * (1.0 / 60.0 + 1.0 / 30.0));
    eta[&campaign("c")].clone().expect("all is known").seconds / ideal
}

#[test]
fn what_is_seen_ahead_is_near_to_what_servers_can_do() {
    // The last items keep some of the servers waiting.
    for (servers, items) in [(2, 200), (64, 6_400), (66, 6_600), (500, 20_000)] {
        let over = over_ideal(servers, items);
        assert!((0.95..1.1).contains(&over), "{over} on {servers} servers");
    }
}
