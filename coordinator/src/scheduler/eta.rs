//! When accounts will be done: what waits is run on the servers that are there, many times over, with durations drawn
//! from what is known of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fleet_common::id::CampaignName;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::choose::Reach;
use super::{Duration, View, count};

/// Draws; enough for a ninetieth percentile that does not jump about. Of large fleets fewer: more items even out more.
const DRAWS: usize = 31;
/// Servers times groups of an account from which on there are fewer.
const LARGE: usize = 20_000;

/// When an account will be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Eta {
    /// In the middle of all draws, seconds from now.
    pub seconds: f64,
    /// In nine of ten draws it was done by then.
    pub seconds_90: f64,
    /// What is left out.
    pub note: Option<String>,
}

/// A server at work.
#[derive(Debug, Clone, PartialEq)]
pub struct AtWork {
    /// For whom.
    pub account: CampaignName,
    /// Its place among the kinds of server; `None` if it takes nothing more.
    pub kin: Option<usize>,
    /// How long the item takes in all.
    pub whole: Duration,
    /// For how long it has run.
    pub elapsed: f64,
}

impl AtWork {
    /// What is left of it, drawn by `factor` on its whole length. What has outrun its length goes on for a little.
    pub fn left(&self, factor: f64) -> f64 {
        (self.whole.seconds * factor - self.elapsed).max(self.whole.seconds * 0.05)
    }
}

struct Waiting {
    account: usize,
    items: usize,
    /// Per kind of server; `None` where it does not fit.
    on: Vec<Option<Duration>>,
    /// Servers that it fits.
    servers: u32,
}

/// When each account that has something waiting or running will be done, or why that cannot be said. `at_work` are the
/// servers that run something, `free` how many of each kind do not.
pub fn eta(view: View<'_>, at_work: &[AtWork], free: &[u32]) -> BTreeMap<CampaignName, Result<Eta, String>> {
    let mut accounts: Vec<&CampaignName> = view.queue.lines().map(|(name, _)| name).collect();
    accounts.extend(at_work.iter().map(|w| &w.account));
    accounts.sort();
    accounts.dedup();
    let place = |name: &CampaignName| accounts.binary_search(&name).unwrap_or(0);
    let mut blind = vec![false; accounts.len()];
    let mut stuck = vec![0; accounts.len()];
    let mut waiting = Vec::new();
    for (name, line) in view.queue.lines() {
        let (account, of) = (place(name), view.queue.account(name));
        for (key, items) in line {
            let reach = Reach::of(view.fleet, view.estimates, of, key);
            if reach.mask == 0 {
                stuck[account] += items.len();
                continue;
            }
            let kin = view.fleet.kin().iter().enumerate();
            let on: Vec<Option<Duration>> = kin
                .map(|(i, k)| (reach.mask >> i & 1 == 1).then(|| view.estimates.duration(key.kind, &k.server.class)))
                .collect();
            blind[account] |= on.iter().flatten().any(|d| !d.is_known());
            waiting.push(Waiting { account, items: items.len(), on, servers: reach.servers.max(1) });
        }
    }
    for work in at_work {
        blind[place(&work.account)] |= !work.whole.is_known();
    }
    let weights: Vec<f64> = accounts.iter().map(|name| view.queue.account(name).priority.weight()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let servers = at_work.len() + free.iter().sum::<u32>() as usize;
    let draws = if servers * waiting.len() / accounts.len().max(1) < LARGE { DRAWS } else { DRAWS / 3 };
    let mut ends: Vec<Vec<f64>> = vec![Vec::with_capacity(draws); accounts.len()];
    for _ in 0..draws {
        let draw = simulate(&waiting, at_work, free, &weights, place, &mut rng);
        ends.iter_mut().zip(draw).for_each(|(all, end)| all.push(end));
    }
    let say = |i: usize, mut ends: Vec<f64>| {
        if blind[i] {
            return Err(
                "nothing like its trials has finished yet, so nothing is known of how long they take".to_owned()
            );
        }
        ends.sort_by(f64::total_cmp);
        let (seconds, seconds_90) = (ends[draws / 2], ends[draws * 9 / 10]);
        let note = (stuck[i] > 0)
            .then(|| format!("without {} that no connected slot can run", count(stuck[i], "waiting trial")));
        match note {
            Some(_) if seconds <= 0.0 => Err("no connected slot can run what waits".to_owned()),
            note => Ok(Eta { seconds, seconds_90, note }),
        }
    };
    accounts.iter().enumerate().zip(ends).map(|((i, name), ends)| ((*name).clone(), say(i, ends))).collect()
}

impl Waiting {
    /// Seconds of an item, on the mean of the kinds that it fits.
    fn mean(&self) -> f64 {
        let (sum, n) = self.on.iter().flatten().fold((0.0, 0.0), |(sum, n), d| (sum + d.seconds, n + 1.0));
        sum / f64::max(n, 1.0)
    }
}

/// A server takes this part of its share of what is left at once.
const SLICES: f64 = 4.0;

/// More servers than this are simulated as teams that are free at one time, or a look ahead would hold up everybody else.
const TEAMS: usize = 64;

/// Servers of one kind, by when they are free, in as many teams as are simulated: time, kind, how many they are.
fn teams(mut servers: Vec<(usize, u64)>) -> BinaryHeap<Reverse<(u64, usize, usize)>> {
    let size = servers.len().div_ceil(TEAMS).max(1);
    servers.sort_unstable();
    let of_kind = servers.chunk_by(|(a, _), (b, _)| a == b);
    let team = |team: &[(usize, u64)]| {
        let mean = team.iter().map(|(_, at)| at).sum::<u64>() / team.len() as u64;
        Reverse((mean, team[0].0, team.len()))
    };
    of_kind.flat_map(|kind| kind.chunks(size).map(team)).collect()
}

/// A standard normal number.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// One possible future: when each account is done.
fn simulate(
    waiting: &[Waiting],
    at_work: &[AtWork],
    free: &[u32],
    weights: &[f64],
    place: impl Fn(&CampaignName) -> usize,
    rng: &mut ChaCha8Rng,
) -> Vec<f64> {
    let mut ends = vec![0.0_f64; weights.len()];
    // All items of a group are off together by one factor.
    let off: Vec<f64> = waiting.iter().map(|_| normal(rng)).collect();
    let mut left: Vec<usize> = waiting.iter().map(|w| w.items).collect();
    let mut remaining: f64 = waiting.iter().map(|w| w.items as f64 * w.mean()).sum();
    // Groups of an account stand side by side.
    let first = |account: usize| waiting.partition_point(|w| w.account < account);
    let of: Vec<std::ops::Range<usize>> = (0..weights.len()).map(|a| first(a)..first(a + 1)).collect();
    let mut clocks: Vec<f64> = vec![0.0; weights.len()];
    // Times in whole milliseconds: floats have no order to sort by.
    let mut each: Vec<(usize, u64)> = Vec::new();
    for work in at_work {
        let factor = (work.whole.spread.hypot(work.whole.doubt) * normal(rng)).exp();
        let until = work.left(factor);
        let account = place(&work.account);
        ends[account] = ends[account].max(until);
        each.extend(work.kin.map(|kin| (kin, (until * 1e3) as u64)));
    }
    for (kin, n) in free.iter().enumerate() {
        each.extend((0..*n).map(|_| (kin, 0)));
    }
    let open = (each.len() as u32).max(1);
    let mut servers = teams(each);
    while let Some(Reverse((now, kin, size))) = servers.pop() {
        // The account that is furthest behind, and of it what is the most work per server.
        let mut turn: Vec<usize> = (0..weights.len()).collect();
        turn.sort_by(|a, b| clocks[*a].total_cmp(&clocks[*b]).then(a.cmp(b)));
        let next = turn.into_iter().find_map(|account| {
            let groups = of[account].clone().filter_map(|g| {
                let duration = waiting[g].on[kin].filter(|_| left[g] > 0)?;
                Some((g, duration, left[g] as f64 * duration.seconds / f64::from(waiting[g].servers)))
            });
            groups.max_by(|(a, _, x), (b, _, y)| x.total_cmp(y).then(b.cmp(a))).map(|(g, duration, _)| (g, duration))
        });
        let Some((g, duration)) = next else { continue };
        let group = &waiting[g];
        // Many items at once while much is left, one by one when the end is near, where it matters.
        let slice = remaining / f64::from(open) / SLICES;
        let chunk = ((slice * size as f64 / duration.seconds) as usize).max(size).min(left[g]);
        left[g] -= chunk;
        remaining -= chunk as f64 * group.mean();
        let noise = duration.spread * normal(rng) / (chunk as f64).sqrt();
        let seconds = chunk as f64 * duration.seconds * (duration.doubt * off[g] + noise).exp();
        clocks[group.account] += seconds / weights[group.account];
        let until = now as f64 / 1e3 + seconds / size.min(chunk) as f64;
        ends[group.account] = ends[group.account].max(until);
        servers.push(Reverse(((until * 1e3) as u64, kin, size)));
    }
    ends
}
