//! Never too much, never nothing without a reason, the same whatever the order of maps, and a fair share for everybody.

use proptest::prelude::*;

use super::*;

/// A fleet and a queue, as numbers.
#[derive(Debug, Clone)]
struct Made {
    /// Class, GiB, limit in GiB, drained.
    servers: Vec<(u8, u64, Option<u64>, bool)>,
    /// GiB, budget in GiB, seconds.
    kinds: Vec<(u64, Option<u64>, f64)>,
    /// Account, kind, class, where it failed.
    items: Vec<(u8, usize, Option<u8>, Option<usize>)>,
}

const CLASSES: [&str; 3] = ["A", "B", "C"];

fn made() -> impl Strategy<Value = Made> {
    let server = (0u8..3, 1u64..25, prop::option::weighted(0.2, 1u64..25), prop::bool::weighted(0.15));
    let kind = (1u64..25, prop::option::of(1u64..25), 1.0..5000.0);
    let item = (0u8..3, 0usize..5, prop::option::weighted(0.4, 0u8..3), prop::option::weighted(0.2, 0usize..6));
    let parts =
        (prop::collection::vec(server, 0..7), prop::collection::vec(kind, 5), prop::collection::vec(item, 0..25));
    parts.prop_map(|(servers, kinds, items)| Made { servers, kinds, items })
}

struct World {
    fleet: Fleet,
    estimates: Estimates,
    queue: Queue,
}

impl Made {
    /// The world; `order` shuffles how it came about.
    fn world(&self, order: u64) -> World {
        let shuffled = |n: usize| {
            let mut numbers: Vec<usize> = (0..n).collect();
            numbers.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(order | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
            numbers
        };
        let mut estimates = Estimates::default();
        let kinds: Vec<KindId> = self
            .kinds
            .iter()
            .enumerate()
            .map(|(k, (gib, budget, seconds))| {
                let (key, budget_bytes) = (format!("k{k}"), budget.map(|b| b * GIB));
                let of = Kind { key, family: "f".into(), budget_bytes, peak_bytes: gib * GIB, work: *seconds };
                estimates.learn_kind(&of)
            })
            .collect();
        let servers = shuffled(self.servers.len()).into_iter().map(|n| {
            let (class, gib, limit, drained) = self.servers[n];
            let limit_bytes = limit.map(|l| l * GIB);
            let drained = drained.then(|| "drained by an operator".to_owned());
            (holder(n), Server { limit_bytes, drained, ..server(CLASSES[usize::from(class)], gib) })
        });
        let mut queue = Queue::default();
        for name in 0..3 {
            queue.open(campaign(&format!("c{name}")), account(i64::from(name) - 1));
        }
        for n in shuffled(self.items.len()) {
            let (name, kind, class, failed) = self.items[n];
            let trial = trial(n as u32, class.map(|c| CLASSES[usize::from(c)]), 0);
            let mut place = place(&format!("c{name}"), kinds[kind], &trial);
            place.group.failed_on.extend(failed.map(holder));
            queue.insert(place, trial);
        }
        World { fleet: Fleet::new(servers.collect(), false), estimates, queue }
    }
}

impl World {
    fn view(&self) -> View<'_> {
        View { queue: &self.queue, fleet: &self.fleet, estimates: &self.estimates }
    }

    /// Every server takes one item, in the order of their names; what each took.
    fn serve(&mut self) -> BTreeMap<Holder, (TrialId, Place)> {
        let mut shares = Shares::default();
        let mut taken = BTreeMap::new();
        for holder in self.fleet.servers().keys().cloned().collect::<Vec<_>>() {
            shares.settle(&self.queue);
            let busy: Busy = taken.keys().map(|h: &Holder| (h.clone(), Some(10.0))).collect();
            let means = Means { shares: &shares, affinity: &NoAffinity, busy: &|| busy.clone() };
            let Some(choice) = choose(self.view(), means, &holder) else { continue };
            let (trial, account, seconds) = (choice.trial.clone(), choice.account.clone(), choice.seconds);
            let place = places(&self.queue)[&trial].clone();
            shares.charge(&self.queue, &account, seconds);
            self.queue.remove(&place, &trial);
            taken.insert(holder, (trial, place));
        }
        taken
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// No server takes what it should not: another class, more than its limit or its memory (unless the class was asked
    /// for and none of it has more), anything while it is drained.
    #[test]
    fn nothing_is_given_to_a_server_that_does_not_fit(made in made()) {
        let mut world = made.world(1);
        for (holder, (trial, place)) in world.serve() {
            let server = &world.fleet.servers()[&holder];
            prop_assert!(server.drained.is_none());
            prop_assert!(trial.hardware.as_ref().is_none_or(|class| *class == server.class));
            let budget = world.estimates.kind(place.group.kind).budget_bytes;
            prop_assert!(server.limit_bytes.is_none_or(|limit| budget.is_some_and(|b| b <= limit)));
            let size = world.estimates.size(place.group.kind);
            let roomiest = world.fleet.servers().values().filter(|s| s.class == server.class).all(|s| {
                s.memory_bytes <= server.memory_bytes || s.limit_bytes.is_some_and(|l| budget.is_none_or(|b| b > l))
            });
            prop_assert!(size <= server.memory_bytes || (trial.hardware.is_some() && roomiest));
        }
    }

    /// After every server has taken what it should, another round gives nobody anything that could have been taken in
    /// the first: what is left waits because no idle server may take it. And asking without granting changes nothing.
    #[test]
    fn nothing_waits_beside_a_server_that_is_free_and_fits(made in made()) {
        let mut world = made.world(1);
        let before = world.queue.clone();
        let taken = world.serve();
        let idle: Vec<Holder> = world.fleet.servers().keys().filter(|h| !taken.contains_key(h)).cloned().collect();
        for (name, line) in world.queue.lines() {
            for key in line.keys() {
                let account = world.queue.account(name);
                prop_assert!(!idle.iter().any(|h| world.fleet.may_take(&world.estimates, account, key, h)));
            }
        }
        let shares = Shares::default();
        let view = View { queue: &before, fleet: &world.fleet, estimates: &world.estimates };
        let means = Means { shares: &shares, affinity: &NoAffinity, busy: &Busy::default };
        for holder in world.fleet.servers().keys() {
            prop_assert_eq!(choose(view, means, holder), choose(view, means, holder));
        }
    }

    #[test]
    fn how_the_queue_and_the_fleet_came_about_changes_nothing(made in made(), order in any::<u64>()) {
        let (mut one, mut other) = (made.world(1), made.world(order));
        prop_assert_eq!(&one.queue, &other.queue);
        prop_assert_eq!(&one.fleet, &other.fleet);
        prop_assert_eq!(one.serve(), other.serve());
    }

    #[test]
    fn whatever_waits_has_a_reason_in_words(made in made()) {
        let mut world = made.world(1);
        let busy: Busy = world.serve().into_keys().map(|h| (h, Some(100.0))).collect();
        for (name, line) in world.queue.lines() {
            for key in line.keys() {
                let why = reason(world.view(), &busy, name, key);
                prop_assert!(why.len() > 15, "{}", why);
                let account = world.queue.account(name);
                for holder in world.fleet.servers().keys() {
                    let verdict = verdict(world.view(), &busy, account, key, holder).expect("a known server");
                    prop_assert!(!describe(world.view(), key, holder, &verdict).is_empty());
                    // What says that it fits somewhere free would have been granted.
                    prop_assert!(verdict != Verdict::Free, "{} {:?}", why, key);
                }
            }
        }
    }

    /// Accounts that always have something for the same servers are served by their weights, to within one item each.
    #[test]
    fn shares_are_fair_to_within_an_item(
        lengths in prop::collection::vec(1.0..500.0, 3),
        priorities in prop::collection::vec(-2i64..3, 3),
        rounds in 20usize..200,
    ) {
        let mut estimates = Estimates::default();
        let mut queue = Queue::default();
        for (n, (seconds, priority)) in lengths.iter().zip(&priorities).enumerate() {
            let name = format!("c{n}");
            queue.open(campaign(&name), account(*priority));
            let kind = kind(&mut estimates, &name, GIB, &[("A", *seconds)]);
            // The first has a thousand times what the others have; none runs dry.
            for i in 0..if n == 0 { 1000 } else { 2 } {
                let trial = trial(n as u32 * 10_000 + i, None, 0);
                queue.insert(place(&name, kind, &trial), trial);
            }
        }
        let fleet = fleet([server("A", 24)]);
        let (mut shares, mut given) = (Shares::default(), [0.0; 3]);
        for _ in 0..rounds {
            shares.settle(&queue);
            let view = View { queue: &queue, fleet: &fleet, estimates: &estimates };
            let means = Means { shares: &shares, affinity: &NoAffinity, busy: &Busy::default };
            let choice = choose(view, means, &holder(0)).expect("something waits");
            given[choice.account.as_str()[1..].parse::<usize>().expect("a number")] += choice.seconds;
            shares.charge(&queue, choice.account, choice.seconds);
        }
        let weight = |n: usize| (priorities[n] as f64).exp2();
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let apart = (given[a] / weight(a) - given[b] / weight(b)).abs();
            let bound = lengths[a] / weight(a) + lengths[b] / weight(b);
            prop_assert!(apart <= bound * 1.001, "{apart} of {bound}");
        }
    }
}

#[test]
fn repeats_are_interleaved_and_the_order_is_the_campaigns_own() {
    let order = |name: &str| -> Vec<TrialId> {
        let name = campaign(name);
        let mut ranked: Vec<_> = (0..20)
            .flat_map(|cell| (0..2).map(move |repeat| trial(cell, None, repeat)))
            .map(|t| (Rank::of(0, &name, &t), t))
            .collect();
        ranked.sort();
        ranked.into_iter().map(|(_, t)| t).collect()
    };
    let (a, b) = (order("a"), order("b"));
    assert!(a[..20].iter().all(|t| t.repeat == 0) && a[20..].iter().all(|t| t.repeat == 1));
    assert_ne!(a, b);
    assert_eq!(a, order("a"));
    assert!(a[..20].windows(2).any(|w| w[0] > w[1]), "not in the order of the matrix");
}

#[test]
fn what_an_item_prefers_decides_among_equals_and_never_what_fits() {
    #[derive(Debug)]
    struct Likes(TrialId);
    impl Affinity for Likes {
        fn score(&self, trial: &TrialId, _: &Holder) -> u32 {
            u32::from(*trial == self.0)
        }
        fn is_empty(&self) -> bool {
            false
        }
    }
    let mut estimates = Estimates::default();
    let (small, large) = (kind(&mut estimates, "s", GIB, &[("A", 1.0)]), kind(&mut estimates, "l", 30 * GIB, &[]));
    let mut queue = Queue::default();
    for n in 0..12 {
        let trial = trial(n, None, 0);
        queue.insert(place("c", if n == 0 { large } else { small }, &trial), trial);
    }
    let fleet = fleet([server("A", 24)]);
    let shares = Shares::default();
    let takes = |liked: u32| {
        let view = View { queue: &queue, fleet: &fleet, estimates: &estimates };
        let affinity = Likes(trial(liked, None, 0));
        let means = Means { shares: &shares, affinity: &affinity, busy: &Busy::default };
        choose(view, means, &holder(0)).expect("something fits").trial.clone()
    };
    assert!((1..12).all(|n| takes(n) == trial(n, None, 0)));
    assert_ne!(takes(0), trial(0, None, 0), "it does not fit");
}
