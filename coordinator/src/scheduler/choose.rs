//! Which item a free server takes.

use fleet_common::id::{CampaignName, TrialId};
use fleet_common::lease::Holder;

use super::queue::{Group, GroupKey};
use super::tail::{self, Job};
use super::{Account, Busy, Estimates, Fleet, Queue, Shares};

/// How much a trial would rather run in a slot than in another: its data is there, or a state that it can go on from.
pub trait Affinity {
    /// 0 for no preference; more is better.
    fn score(&self, trial: &TrialId, holder: &Holder) -> u32;

    /// Whether there is any preference at all; without one nobody asks.
    fn is_empty(&self) -> bool;
}

/// No preference.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAffinity;

impl Affinity for NoAffinity {
    fn score(&self, _: &TrialId, _: &Holder) -> u32 {
        0
    }

    fn is_empty(&self) -> bool {
        true
    }
}

/// What scheduling looks at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What waits.
    pub queue: &'a Queue,
    /// Where it may run.
    pub fleet: &'a Fleet,
    /// What is known of sizes and lengths.
    pub estimates: &'a Estimates,
}

/// What a server takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice<'a> {
    /// The item.
    pub trial: &'a TrialId,
    /// Whose it is.
    pub account: &'a CampaignName,
    /// How long it is expected to keep the server, seconds.
    pub seconds: f64,
}

/// How many trials of a group are asked for their preference.
const WINDOW: usize = 16;
/// The tail begins when what waits per server is less than so many of its longest items.
const TAIL: f64 = 4.0;
/// Servers that alone can do some of the work are kept for it once that is this share of the work per server of all.
const SCARCE: f64 = 0.9;

/// A group that the server may take.
struct Candidate<'a> {
    key: &'a GroupKey,
    items: &'a Group,
    /// The kinds of server that it fits.
    mask: u128,
    /// Seconds of one item here.
    here: f64,
}

/// What decides beside what waits and what there is.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Whose turn it is.
    pub shares: &'a Shares,
    /// What items prefer.
    pub affinity: &'a dyn Affinity,
    /// Seconds until each server at work is free; asked for in the tail alone.
    pub busy: &'a dyn Fn() -> Busy,
}

/// The item that the free server `holder` takes; `None` if none may run there.
pub fn choose<'a>(view: View<'a>, means: Means<'_>, holder: &Holder) -> Option<Choice<'a>> {
    view.fleet.servers().get(holder).filter(|s| s.drained.is_none())?;
    let order = means.shares.order(view.queue);
    order.into_iter().find_map(|account| choose_of(view, means, holder, account))
}

fn choose_of<'a>(view: View<'a>, means: Means<'_>, holder: &Holder, account: &'a CampaignName) -> Option<Choice<'a>> {
    let View { queue, fleet, estimates } = view;
    let server = fleet.servers().get(holder)?;
    let (line, of) = (queue.line(account)?, queue.account(account));
    let fits = |key: &GroupKey| {
        fleet.obstacle(estimates, of, key, server).is_none()
            && (!key.failed_on.contains(holder) || !fleet.elsewhere(estimates, of, key, holder))
    };
    if !line.keys().any(fits) {
        return None;
    }
    // What waits, as work per set of servers, and of it what may run here.
    let classes = classes(fleet, estimates);
    let here = estimates.class(&server.class);
    let mut load = Load::default();
    let mut candidates = Vec::new();
    for (key, items) in line {
        let reach = Reach::on(fleet, estimates, of, key, &classes);
        load.add(&reach, items.len());
        if fits(key) {
            let here = estimates.duration_on(key.kind, here).seconds;
            candidates.push(Candidate { key, items, mask: reach.mask, here });
        }
    }
    let (horizon, kept) = load.scarcest(fleet, candidates.iter().map(|c| c.mask));
    let longest = candidates.iter().map(|c| c.here).fold(0.0, f64::max);
    let last = if horizon < TAIL * longest { last(view, means, holder, account, &candidates) } else { None };
    match (last, kept) {
        (Some(key), _) => candidates.retain(|c| c.key == key),
        (None, Some(mask)) => candidates.retain(|c| c.mask & !mask == 0),
        (None, None) => {}
    }
    let trial = first(&candidates, means.affinity, holder)?;
    let seconds = candidates.iter().find(|c| c.items.contains(trial)).map_or(longest, |c| c.here);
    Some(Choice { trial: &trial.1, account, seconds })
}

/// The group that the server takes in the tail.
fn last<'a>(
    view: View<'a>,
    means: Means<'_>,
    holder: &Holder,
    account: &CampaignName,
    candidates: &[Candidate<'a>],
) -> Option<&'a GroupKey> {
    let View { queue, fleet, estimates } = view;
    let here = fleet.kind_of(holder)?;
    let (mut jobs, mut fitting) = (Vec::new(), Vec::new());
    for (key, items) in queue.line(account)? {
        let reach = Reach::of(fleet, estimates, queue.account(account), key);
        let on = fleet.kin().iter().enumerate().map(|(kind, kin)| {
            (reach.mask >> kind & 1 == 1).then(|| estimates.duration(key.kind, &kin.server.class).seconds)
        });
        if candidates.iter().any(|c| c.key == key) {
            fitting.push((jobs.len(), key));
        }
        jobs.push(Job { items: items.len(), on: on.collect(), servers: reach.servers });
    }
    let busy = (means.busy)();
    let ready: Vec<(usize, f64)> = fleet
        .servers()
        .keys()
        .filter(|other| *other != holder)
        .filter_map(|other| Some((fleet.kind_of(other)?, busy.get(other).copied().flatten().unwrap_or(0.0))))
        .collect();
    let numbers: Vec<usize> = fitting.iter().map(|(n, _)| *n).collect();
    let best = tail::best(&jobs, &numbers, here, &ready, fleet.kinds())?;
    fitting.into_iter().find(|(n, _)| *n == best).map(|(_, key)| key)
}

/// The item that would rather be here than others, or else the first in line.
fn first<'a>(
    candidates: &[Candidate<'a>],
    affinity: &dyn Affinity,
    holder: &Holder,
) -> Option<&'a (super::Rank, TrialId)> {
    if affinity.is_empty() {
        return candidates.iter().filter_map(|c| c.items.first()).min();
    }
    let window = candidates.iter().flat_map(|c| c.items.iter().take(WINDOW));
    window.min_by_key(|item| (std::cmp::Reverse(affinity.score(&item.1, holder)), *item))
}

/// Which kinds of server a group fits, and how fast they are together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reach {
    pub(super) mask: u128,
    pub(super) servers: u32,
    /// Server-seconds that an item takes, when all of them work on its group.
    cost: f64,
}

impl Reach {
    pub(super) fn of(fleet: &Fleet, estimates: &Estimates, account: &Account, key: &GroupKey) -> Self {
        Self::on(fleet, estimates, account, key, &classes(fleet, estimates))
    }

    /// The same; `classes` are the numbers of the kinds' classes, looked up once for many groups.
    fn on(fleet: &Fleet, estimates: &Estimates, account: &Account, key: &GroupKey, classes: &[Option<usize>]) -> Self {
        let mut reach = Self::default();
        if fleet.kin().len() > super::fleet::MOST_KIN {
            return reach;
        }
        let mut rate = 0.0;
        for (i, (kin, class)) in fleet.kin().iter().zip(classes).enumerate() {
            if fleet.obstacle(estimates, account, key, &kin.server).is_none() {
                let seconds = estimates.duration_on(key.kind, *class).seconds;
                reach.mask |= 1 << i;
                reach.servers += kin.open;
                rate += f64::from(kin.open) / seconds;
            }
        }
        reach.cost = if rate > 0.0 { f64::from(reach.servers) / rate } else { 0.0 };
        reach
    }
}

/// The numbers of the kinds' classes.
fn classes(fleet: &Fleet, estimates: &Estimates) -> Vec<Option<usize>> {
    fleet.kin().iter().map(|kin| estimates.class(&kin.server.class)).collect()
}

/// What waits, in server-seconds by the set of servers that can do it.
#[derive(Debug, Default)]
struct Load {
    by_mask: std::collections::BTreeMap<u128, f64>,
}

impl Load {
    fn add(&mut self, reach: &Reach, items: usize) {
        if reach.mask != 0 {
            *self.by_mask.entry(reach.mask).or_default() += reach.cost * items as f64;
        }
    }

    /// How long what waits will take, per server; and the smallest of the sets `masks` that must do nothing else in
    /// order to be done with it by then.
    fn scarcest(&self, fleet: &Fleet, masks: impl Iterator<Item = u128>) -> (f64, Option<u128>) {
        let servers = |mask: u128| {
            let kin = fleet.kin().iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
            f64::from(kin.map(|(_, k)| k.open).sum::<u32>().max(1))
        };
        if fleet.kin().len() > super::fleet::MOST_KIN {
            return (f64::INFINITY, None);
        }
        let within =
            |mask: u128| self.by_mask.iter().filter(|(m, _)| **m & !mask == 0).map(|(_, load)| load).sum::<f64>();
        let all = self.by_mask.keys().fold(0, |a, b| a | b);
        let horizon = within(all) / servers(all);
        let mut masks: Vec<u128> = masks.filter(|m| *m != 0 && *m != all).collect();
        masks.sort_by_key(|m| (servers(*m) as u32, *m));
        masks.dedup();
        let mut scarce = masks.into_iter().map(|m| (m, within(m) / servers(m))).filter(|(_, t)| *t >= SCARCE * horizon);
        match scarce.next() {
            Some((mask, time)) => (time.max(horizon), Some(mask)),
            None => (horizon, None),
        }
    }
}
