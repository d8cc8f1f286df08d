//! The servers, and which group fits which.

use std::collections::BTreeMap;

use fleet_common::id::HardwareClass;
use fleet_common::lease::Holder;
use fleet_common::spec::{Mismatch, Select};
use fleet_common::tags::Tags;

use super::queue::GroupKey;
use super::{Account, Estimates, KindId};

/// A slot as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its class.
    pub class: HardwareClass,
    /// Its device's name, without what operators appended to the class.
    pub model: String,
    /// Its memory, bytes; 0 where it does not say, and then everything fits.
    pub memory_bytes: u64,
    /// What of that a trial needs beside its tensors, bytes.
    pub overhead_bytes: u64,
    /// Budgets above this are not for it.
    pub limit_bytes: Option<u64>,
    /// What its operator says of it.
    pub tags: Tags,
    /// Why nothing new runs there, if so.
    pub drained: Option<String>,
}

/// Why a group does not fit a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It asks for another class.
    Class,
    /// Its campaign selects others.
    Select(Mismatch),
    /// The server takes smaller budgets only.
    Limit {
        /// The group's budget; `None` is unlimited.
        budget: Option<u64>,
        /// The server's limit.
        limit: u64,
    },
    /// It needs more memory.
    Memory {
        /// What it needs there, bytes.
        needed: u64,
        /// What there is.
        present: u64,
    },
}

/// Servers that nothing tells apart but their names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kin {
    /// One of them, for all.
    pub server: Server,
    /// How many are open.
    pub open: u32,
}

/// All servers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fleet {
    servers: BTreeMap<Holder, Server>,
    kin: Vec<Kin>,
    /// By open server, its place in `kin`.
    kind_of: BTreeMap<Holder, usize>,
    /// There will be no others: what does not fit anywhere is tried where there is most room, and that it does not fit
    /// is found out there.
    pub closed: bool,
}

/// Memories within a sixteenth of each other count as alike in sums over many servers; the choice for one is exact.
fn alike(bytes: u64) -> u64 {
    let step = (bytes.checked_ilog2().map_or(1, |log| 1u64 << log) / 16).max(1);
    bytes / step * step
}

/// All that tells kinds of server apart.
fn key(s: &Server) -> (&HardwareClass, &str, u64, u64, Option<u64>, &Tags) {
    (&s.class, &s.model, s.memory_bytes, s.overhead_bytes, s.limit_bytes, &s.tags)
}

/// Most kinds of server that sums are made of; beyond, each choice looks at its own server alone.
pub(super) const MOST_KIN: usize = 128;

impl Fleet {
    /// A fleet of these servers.
    pub fn new(servers: BTreeMap<Holder, Server>, closed: bool) -> Self {
        let plain = |s: &Server| Server { memory_bytes: alike(s.memory_bytes), ..s.clone() };
        // Sorted by what they are: the order of names must not matter.
        let mut open: Vec<(Server, &Holder)> =
            servers.iter().filter(|(_, s)| s.drained.is_none()).map(|(holder, s)| (plain(s), holder)).collect();
        open.sort_by(|(a, _), (b, _)| key(a).cmp(&key(b)));
        let mut kin: Vec<Kin> = Vec::new();
        let mut kind_of = BTreeMap::new();
        for (server, holder) in open {
            match kin.last_mut().filter(|k| k.server == server) {
                Some(k) => k.open += 1,
                None => kin.push(Kin { server, open: 1 }),
            }
            kind_of.insert(holder.clone(), kin.len() - 1);
        }
        Self { servers, kin, kind_of, closed }
    }

    /// All servers.
    pub fn servers(&self) -> &BTreeMap<Holder, Server> {
        &self.servers
    }

    pub(super) fn kin(&self) -> &[Kin] {
        &self.kin
    }

    /// How many kinds of open server there are.
    pub fn kinds(&self) -> usize {
        self.kin.len()
    }

    /// The kind of an open server.
    pub fn kind_of(&self, holder: &Holder) -> Option<usize> {
        self.kind_of.get(holder).copied()
    }

    /// Why a group does not fit a server, drained or not.
    pub fn obstacle(
        &self,
        estimates: &Estimates,
        account: &Account,
        group: &GroupKey,
        server: &Server,
    ) -> Option<Obstacle> {
        let obstacle = obstacle(estimates, &account.select, group, server)?;
        if let Obstacle::Memory { .. } = obstacle
            && (self.closed || group.colour.is_some())
            && self.is_roomiest(estimates, &account.select, group, server)
        {
            return None;
        }
        Some(obstacle)
    }

    /// Whether a group that fits nowhere could be tried on a server as well as anywhere: of a class that was asked for,
    /// that it does not fit is an answer.
    fn is_roomiest(&self, estimates: &Estimates, select: &Select, group: &GroupKey, server: &Server) -> bool {
        self.servers.values().all(|other| match obstacle(estimates, select, group, other) {
            None => false,
            Some(Obstacle::Memory { present, .. }) => present <= server.memory_bytes,
            Some(_) => true,
        })
    }

    /// Whether a free server may take a group now: it fits, nothing keeps the server, and the group has not failed
    /// there, or has nowhere else to go.
    pub fn may_take(&self, estimates: &Estimates, account: &Account, group: &GroupKey, holder: &Holder) -> bool {
        let Some(server) = self.servers.get(holder).filter(|s| s.drained.is_none()) else { return false };
        self.obstacle(estimates, account, group, server).is_none()
            && (!group.failed_on.contains(holder) || !self.elsewhere(estimates, account, group, holder))
    }

    /// Whether another server could take a group, and has not failed at it.
    pub fn elsewhere(&self, estimates: &Estimates, account: &Account, group: &GroupKey, here: &Holder) -> bool {
        self.servers.iter().any(|(holder, server)| {
            holder != here
                && server.drained.is_none()
                && !group.failed_on.contains(holder)
                && self.obstacle(estimates, account, group, server).is_none()
        })
    }
}

/// What a trial of a kind needs of a server, bytes.
pub(super) fn needed(estimates: &Estimates, kind: KindId, server: &Server) -> u64 {
    match estimates.size(kind) {
        0 => 0,
        size => size.saturating_add(server.overhead_bytes),
    }
}

fn obstacle(estimates: &Estimates, select: &Select, group: &GroupKey, server: &Server) -> Option<Obstacle> {
    if group.colour.as_ref().is_some_and(|class| *class != server.class) {
        return Some(Obstacle::Class);
    }
    if !select.is_everything()
        && let Some(mismatch) = select.mismatch(&server.model, |key| server.tags.get(key), server.memory_bytes)
    {
        return Some(Obstacle::Select(mismatch));
    }
    if let Some(limit) = server.limit_bytes {
        let budget = estimates.kind(group.kind).budget_bytes;
        if budget.is_none_or(|budget| budget > limit) {
            return Some(Obstacle::Limit { budget, limit });
        }
    }
    let needed = needed(estimates, group.kind, server);
    let present = server.memory_bytes;
    (present > 0 && needed > present).then_some(Obstacle::Memory { needed, present })
}
