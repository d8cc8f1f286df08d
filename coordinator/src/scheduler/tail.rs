//! The last items, where the order decides when everything is done.
//!
//! For each item that the free server could take, the rest is planned: longest first, each where it is done soonest,
//! given when the servers at work will be free. The server takes the item after which the plan ends first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Items of one group.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// How many.
    pub items: usize,
    /// Seconds of one per kind of server; `None` where it does not fit.
    pub on: Vec<Option<f64>>,
    /// Servers that it fits.
    pub servers: u32,
}

impl Job {
    fn best(&self) -> f64 {
        self.on.iter().flatten().copied().fold(f64::INFINITY, f64::min)
    }

    fn mean(&self) -> f64 {
        let (sum, n) = self.on.iter().flatten().fold((0.0, 0.0), |(sum, n), s| (sum + s, n + 1.0));
        sum / f64::max(n, 1.0)
    }
}

/// When servers are free, and of which kind they are; whole milliseconds, because floats have no order.
type Ready = BinaryHeap<Reverse<(u64, usize)>>;

/// How a plan ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    /// When the last item is done.
    makespan: u64,
    /// What all servers work together.
    work: u64,
}

/// Orders that are near to those.
const NEAR: usize = 16;
/// Steps that a choice may cost: some milliseconds. Large fleets get fewer plans, and level out better by themselves.
const EFFORT: usize = 60_000;
/// Most items that are tried; the longest and the shortest of more.
const MOST_TRIED: usize = 24;

fn millis(seconds: f64) -> u64 {
    (seconds * 1e3) as u64
}

/// Which of the jobs `fitting` a free server of kind `here` should take an item of. `ready` are the other servers that
/// are open: kind, and seconds until free.
pub(super) fn best(
    jobs: &[Job],
    fitting: &[usize],
    here: usize,
    ready: &[(usize, f64)],
    kinds: usize,
) -> Option<usize> {
    let others: Ready = ready.iter().map(|(kind, seconds)| Reverse((millis(*seconds), *kind))).collect();
    let partings = partings(jobs, kinds);
    let steps = jobs.iter().map(|j| j.items).sum::<usize>() + ready.len();
    let plans = EFFORT / steps.max(1);
    let orders = orders(jobs);
    let mut tried = fitting.to_vec();
    let length = |job: &usize| jobs[*job].on[here].unwrap_or(0.0);
    tried.sort_by(|a, b| length(b).total_cmp(&length(a)).then(a.cmp(b)));
    let most = MOST_TRIED.min(plans / 4).max(1);
    if tried.len() > most {
        tried.drain(most.div_ceil(2)..tried.len() - most / 2);
    }
    if tried.len() == 1 {
        return tried.pop();
    }
    let ways = plans / tried.len();
    let after = |job: usize| -> Option<End> {
        let seconds = jobs[job].on[here]?;
        let mut ready = others.clone();
        ready.push(Reverse((millis(seconds), here)));
        let all = orders.iter().flat_map(|order| partings.iter().map(move |slow| (order, slow)));
        all.take(ways).map(|(order, slow)| plan(jobs, order, slow, job, ready.clone())).min()
    };
    // Of equals the longest, which stands first.
    tried.into_iter().filter_map(|job| Some((after(job)?, job))).min_by_key(|(end, _)| *end).map(|(_, job)| job)
}

/// Orders in which the rest may be planned: none of them is best for every fleet, and a few that are almost the best
/// often do better.
fn orders(jobs: &[Job]) -> Vec<Vec<usize>> {
    let fit: Vec<usize> = (0..jobs.len()).filter(|j| jobs[*j].on.iter().any(Option::is_some)).collect();
    let sorted = |key: &mut dyn FnMut(&Job) -> (u32, f64)| {
        let mut order: Vec<((u32, f64), usize)> = fit.iter().map(|j| (key(&jobs[*j]), *j)).collect();
        order.sort_by(|(a, i), (b, j)| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(i.cmp(j)));
        order.into_iter().map(|(_, job)| job).collect::<Vec<usize>>()
    };
    let mut orders =
        vec![sorted(&mut |j| (0, j.best())), sorted(&mut |j| (0, j.mean())), sorted(&mut |j| (j.servers, j.best()))];
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for _ in 0..NEAR / 2 {
        orders.push(sorted(&mut |j| (0, j.mean() * rng.random_range(0.3..1.0))));
        orders.push(sorted(&mut |j| (j.servers, j.mean() * rng.random_range(0.3..1.0))));
    }
    orders
}

/// Lets all items but one of `taken` be taken by whichever server is free, the first that fits in this order. `slow`
/// kinds of server begin at the end of it, where the short ones are.
fn plan(jobs: &[Job], order: &[usize], slow: &[bool], taken: usize, mut ready: Ready) -> End {
    let mut left: Vec<usize> = jobs.iter().map(|j| j.items).collect();
    left[taken] -= 1;
    let (mut makespan, mut work) = (0, 0);
    while let Some(Reverse((now, kind))) = ready.pop() {
        makespan = makespan.max(now);
        let fits = |job: &&usize| left[**job] > 0 && jobs[**job].on[kind].is_some();
        let next = if slow[kind] { order.iter().rev().find(fits) } else { order.iter().find(fits) };
        let Some((job, seconds)) = next.and_then(|job| Some((*job, jobs[*job].on[kind]?))) else { continue };
        left[job] -= 1;
        work += millis(seconds);
        ready.push(Reverse((now + millis(seconds), kind)));
    }
    End { makespan, work }
}

/// Most ways to part the kinds of server that are tried.
const PARTINGS: usize = 5;

/// Ways to part the kinds of server into slow ones and others: none is slow, the slowest is, the two slowest are, ….
fn partings(jobs: &[Job], kinds: usize) -> Vec<Vec<bool>> {
    let ratio = |kind: usize| {
        let of = jobs.iter().filter_map(|j| Some(j.on[kind]? / j.best()));
        let (sum, n) = of.fold((0.0, 0.0), |(sum, n), r| (sum + r, n + 1.0));
        sum / f64::max(n, 1.0)
    };
    let ratios: Vec<f64> = (0..kinds).map(ratio).collect();
    let mut limits = ratios.clone();
    limits.sort_by(f64::total_cmp);
    limits.dedup_by(|a, b| *a < *b * 1.05);
    limits.drain(..limits.len().saturating_sub(PARTINGS));
    limits.into_iter().map(|limit| ratios.iter().map(|r| *r > limit).collect()).collect()
}
