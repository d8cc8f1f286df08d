//! The promises of `README.md`, on fleets and queues that were made up.

mod eta;
mod makespan;
mod promises;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_common::id::{CampaignName, HardwareClass, TrialId};
use fleet_common::lease::Holder;
use fleet_common::plan::Kind;
use fleet_common::record::OutcomeClass;
use fleet_common::spec::{Priority, Select};
use fleet_common::tags::Tags;

use super::*;

const GIB: u64 = 1 << 30;

fn class(name: &str) -> HardwareClass {
    name.parse().expect("a class")
}

fn campaign(name: &str) -> CampaignName {
    name.parse().expect("a name")
}

fn holder(n: usize) -> Holder {
    Holder { agent: format!("agent-{n:03}").parse().expect("an id"), slot: "cpu".parse().expect("a slot") }
}

fn server(class_name: &str, gib: u64) -> Server {
    Server {
        class: class(class_name),
        model: class_name.to_owned(),
        memory_bytes: gib * GIB,
        overhead_bytes: 0,
        limit_bytes: None,
        tags: Tags::default(),
        drained: None,
    }
}

fn fleet(servers: impl IntoIterator<Item = Server>) -> Fleet {
    Fleet::new(servers.into_iter().enumerate().map(|(n, s)| (holder(n), s)).collect(), false)
}

/// A kind of so many bytes that takes so many seconds on each class.
fn kind(estimates: &mut Estimates, key: &str, bytes: u64, seconds: &[(&str, f64)]) -> KindId {
    let kind = Kind { key: key.into(), family: "f".into(), budget_bytes: None, peak_bytes: bytes, work: 0.0 };
    let id = estimates.learn_kind(&kind);
    for (hardware, seconds) in seconds {
        let figures = Figures { seconds: *seconds, hardware: Some(class(hardware)), ..Figures::default() };
        estimates.observe(id, OutcomeClass::Completed, &figures);
    }
    id
}

fn trial(n: u32, colour: Option<&str>, repeat: u32) -> TrialId {
    TrialId { cell: format!("{n:032x}").parse().expect("an id"), hardware: colour.map(class), repeat }
}

fn place(account: &str, kind: KindId, trial: &TrialId) -> Place {
    let account = campaign(account);
    let rank = Rank::of(0, &account, trial);
    Place { account, group: GroupKey { colour: trial.hardware.clone(), kind, failed_on: BTreeSet::new() }, rank }
}

fn account(priority: i64) -> Account {
    Account { priority: Priority::try_from(priority).expect("a priority"), select: Arc::new(Select::default()) }
}

fn places(queue: &Queue) -> BTreeMap<TrialId, Place> {
    let mut places = BTreeMap::new();
    for (name, line) in queue.lines() {
        for (key, group) in line {
            for (rank, trial) in group {
                let place = Place { account: name.clone(), group: key.clone(), rank: *rank };
                places.insert(trial.clone(), place);
            }
        }
    }
    places
}
