//! Why a group waits, in words with numbers: what was expected, what was found, what to do.

use std::collections::{BTreeMap, BTreeSet};

use fleet_common::id::CampaignName;
use fleet_common::lease::Holder;
use fleet_common::units::{Bytes, duration};

use super::choose::Reach;
use super::{Account, GroupKey, Obstacle, View, count};

/// The servers at work, with the seconds until they are free, where anything is known of that.
pub type Busy = BTreeMap<Holder, Option<f64>>;

/// What one server is to one group.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It fits, and the server is free.
    Free,
    /// It fits, and the server is at work, for so many more seconds if anything is known of that.
    Busy(Option<f64>),
    /// It failed there; others are tried first.
    Failed,
    /// It would fit, but nothing new runs there.
    Drained(String),
    /// It does not fit.
    Obstacle(Obstacle),
}

impl Verdict {
    /// Whether the group could run there, now or later.
    pub fn fits(&self) -> bool {
        matches!(self, Self::Free | Self::Busy(_))
    }
}

/// What a server is to a group.
pub fn verdict(view: View<'_>, busy: &Busy, account: &Account, group: &GroupKey, holder: &Holder) -> Option<Verdict> {
    let View { fleet, estimates, .. } = view;
    let server = fleet.servers().get(holder)?;
    Some(if let Some(obstacle) = fleet.obstacle(estimates, account, group, server) {
        Verdict::Obstacle(obstacle)
    } else if let Some(why) = &server.drained {
        Verdict::Drained(why.clone())
    } else if group.failed_on.contains(holder) && fleet.elsewhere(estimates, account, group, holder) {
        Verdict::Failed
    } else {
        busy.get(holder).map_or(Verdict::Free, |left| Verdict::Busy(*left))
    })
}

/// A verdict in words.
pub fn describe(view: View<'_>, group: &GroupKey, holder: &Holder, verdict: &Verdict) -> String {
    let class = |holder: &Holder| view.fleet.servers().get(holder).map_or("unknown", |s| s.class.as_str());
    match verdict {
        Verdict::Free => "it fits, and the slot is free".to_owned(),
        Verdict::Busy(Some(left)) => format!("it fits; the slot is busy for about {} more", duration(*left)),
        Verdict::Busy(None) => "it fits; the slot is busy".to_owned(),
        Verdict::Failed => "it failed here, and is tried on other slots first".to_owned(),
        Verdict::Drained(why) => format!("the slot is {why}"),
        Verdict::Obstacle(Obstacle::Class) => {
            let wanted = group.colour.as_ref().map_or("another class", |c| c.as_str());
            format!("expected the hardware class {wanted}, found {}", class(holder))
        }
        Verdict::Obstacle(Obstacle::Select(mismatch)) => {
            format!("its campaign selects {mismatch}; {}", found(mismatch))
        }
        Verdict::Obstacle(Obstacle::Limit { budget, limit }) => {
            format!("the slot takes budgets up to {}, and the trial's is {}", Bytes(*limit), budget_in_words(*budget))
        }
        Verdict::Obstacle(Obstacle::Memory { needed, present }) => {
            format!(
                "needs {} ({}), and the slot has {}",
                Bytes(*needed),
                view.estimates.peak(group.kind).basis,
                Bytes(*present)
            )
        }
    }
}

fn found(mismatch: &fleet_common::spec::Mismatch) -> String {
    use fleet_common::spec::Mismatch;
    match mismatch {
        Mismatch::Model { .. } => "the slot's device is another".to_owned(),
        Mismatch::Label { key, found: Some(found), .. } => format!("the slot has {key}={found}"),
        Mismatch::Label { key, found: None, .. } => format!("the slot has no label {key}"),
        Mismatch::Memory { found, .. } => format!("the slot has {found}"),
    }
}

fn budget_in_words(budget: Option<u64>) -> String {
    budget.map_or_else(|| "unlimited".to_owned(), |b| Bytes(b).to_string())
}

/// Why the trials of a group wait; never empty.
pub fn reason(view: View<'_>, busy: &Busy, name: &CampaignName, group: &GroupKey) -> String {
    let (fleet, account) = (view.fleet, view.queue.account(name));
    if fleet.servers().is_empty() {
        return "no agent is connected; start one with `fleet-agent run`".to_owned();
    }
    let verdicts: Vec<(&Holder, Verdict)> = fleet
        .servers()
        .keys()
        .filter_map(|holder| Some((holder, verdict(view, busy, account, group, holder)?)))
        .collect();
    let free = verdicts.iter().filter(|(_, v)| *v == Verdict::Free).count();
    let left: Vec<Option<f64>> =
        verdicts.iter().filter_map(|(_, v)| if let Verdict::Busy(left) = v { Some(*left) } else { None }).collect();
    let failed = verdicts.iter().filter(|(_, v)| *v == Verdict::Failed).count();
    let failed = match failed {
        0 => String::new(),
        _ => {
            let names: Vec<String> = group.failed_on.iter().map(|h| format!("{} of {}", h.slot, h.agent)).collect();
            format!("failed on {}, tried elsewhere first; ", names.join(", "))
        }
    };
    if free > 0 {
        return format!(
            "{failed}{} that it fits {} free and about to ask for work (an agent rests after a failure, and looks at its \
             meters once a day)",
            count(free, "slot"),
            if free == 1 { "is" } else { "are" }
        );
    }
    if !left.is_empty() {
        let next = left.iter().flatten().copied().reduce(f64::min);
        let next = next.map_or(String::new(), |s| format!("; about {} until the next is free", in_short(s)));
        let all = match left.len() {
            1 => "the one slot that it fits is busy".to_owned(),
            n => format!("all {n} slots that it fits are busy"),
        };
        return format!("{failed}{all}{next}{}", ahead(view, name, group));
    }
    let drained: Vec<&String> =
        verdicts.iter().filter_map(|(_, v)| if let Verdict::Drained(why) = v { Some(why) } else { None }).collect();
    if let Some(first) = drained.first() {
        return match drained.len() {
            1 => format!("the one slot that it fits is {first}; `fleet agents undrain` opens it"),
            n => format!(
                "all {n} slots that it fits are drained; the first is {first}; `fleet agents undrain` opens them"
            ),
        };
    }
    let obstacles =
        verdicts.into_iter().filter_map(|(h, v)| if let Verdict::Obstacle(o) = v { Some((h, o)) } else { None });
    fits_nowhere(view, group, obstacles.collect())
}

/// Durations in reasons change with every look; to the minute they change seldom enough to be read and grouped.
fn in_short(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => "a minute".to_owned(),
        s => duration((s / 60.0).ceil() * 60.0).replace(" 00 s", ""),
    }
}

/// Who goes first, where anybody does.
fn ahead(view: View<'_>, name: &CampaignName, group: &GroupKey) -> String {
    let View { queue, fleet, estimates } = view;
    let own = queue.account(name);
    let mask = Reach::of(fleet, estimates, own, group).mask;
    let overlaps =
        |other: &CampaignName, key: &GroupKey| mask & Reach::of(fleet, estimates, queue.account(other), key).mask != 0;
    let higher: usize = queue
        .lines()
        .filter(|(other, _)| queue.account(other).priority > own.priority)
        .flat_map(|(other, line)| line.iter().filter(move |(key, _)| overlaps(other, key)))
        .map(|(_, items)| items.len())
        .sum();
    match higher {
        0 => String::new(),
        n => format!("; beside {} of campaigns with higher priority", count(n, "waiting trial")),
    }
}

/// Why no server at all would do. What most of them lack is less telling than what the nearest one lacks.
fn fits_nowhere(view: View<'_>, group: &GroupKey, obstacles: Vec<(&Holder, Obstacle)>) -> String {
    let budget = view.estimates.kind(group.kind).budget_bytes;
    let memories = obstacles.iter().filter_map(|(_, o)| match o {
        Obstacle::Memory { needed, present } => Some((*present, *needed)),
        _ => None,
    });
    if let Some((largest, needed)) = memories.max() {
        let beside = needed - view.estimates.size(group.kind);
        let beside = if beside > 0 { format!(", and {} for the GPU's context", Bytes(beside)) } else { String::new() };
        return format!(
            "needs {} ({}{beside}), and the largest slot that it may use has {}; connect a larger one, or ask for a smaller \
             batch, checkpointing or a smaller budget",
            Bytes(needed),
            view.estimates.peak(group.kind).basis,
            Bytes(largest)
        );
    }
    let limits =
        obstacles.iter().filter_map(|(_, o)| if let Obstacle::Limit { limit, .. } = o { Some(*limit) } else { None });
    if let Some(largest) = limits.max() {
        return format!(
            "its budget is {}, and the slots that it may use take budgets up to {}; ask for a smaller budget, or start their \
             agents with a larger --limit-memory",
            budget_in_words(budget),
            Bytes(largest)
        );
    }
    let of_class = obstacles.iter().filter(|(_, o)| *o != Obstacle::Class).count();
    let mismatches: BTreeSet<String> = obstacles
        .iter()
        .filter_map(|(_, o)| if let Obstacle::Select(m) = o { Some(m.to_string()) } else { None })
        .collect();
    if !mismatches.is_empty() {
        let wanted: Vec<String> = mismatches.into_iter().collect();
        let none = match of_class {
            1 => "the one slot that could run it does not meet".to_owned(),
            n => format!("none of the {n} slots that could run it meets"),
        };
        return format!(
            "its campaign selects {}, which {none}; `fleet agents` shows models, labels and memory",
            wanted.join(", ")
        );
    }
    let present: BTreeSet<&str> = view.fleet.servers().values().map(|s| s.class.as_str()).collect();
    format!(
        "no connected slot is of the class {}; there {} {}; start an agent on such a machine",
        group.colour.as_ref().map_or("asked for", |c| c.as_str()),
        if present.len() == 1 { "is" } else { "are" },
        present.into_iter().collect::<Vec<_>>().join("; ")
    )
}
