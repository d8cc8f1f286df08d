//! What agents have of data sets and weights: a hint for placement, never a condition, because what is missing is
//! fetched. Not durable: agents tell it again.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fleet_common::id::{AgentId, TrialId};
use fleet_common::lease::Holder;
use fleet_common::plan::CellSettings;
use fleet_content::Item;

use super::{CellEntry, Core};
use crate::scheduler::KindId;

/// What agents have.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// With the number under which it was told.
    of: HashMap<AgentId, (u64, BTreeSet<Item>)>,
    /// How many agents have each item.
    having: HashMap<Item, usize>,
    /// What cells need, by kind: reading settings takes too long to do it at each choice.
    wanted: RefCell<HashMap<KindId, Arc<[Item]>>>,
}

impl Contents {
    fn count(&mut self) {
        self.having.clear();
        for item in self.of.values().flat_map(|(_, items)| items) {
            *self.having.entry(item.clone()).or_default() += 1;
        }
    }

    fn has(&self, agent: &AgentId, item: &Item) -> bool {
        self.of.get(agent).is_some_and(|(_, items)| items.contains(item))
    }
}

impl Core {
    /// Notes what an agent says that it has, unless something later was heard. `number` is 0 where it does not count.
    pub(super) fn has(&mut self, agent: &AgentId, number: u64, items: BTreeSet<Item>) {
        let before = self.contents.of.get(agent);
        let news = before.is_none_or(|(known, _)| number == 0 || number > *known);
        if news && self.agents.contains_key(agent) {
            self.contents.of.insert(agent.clone(), (number, items));
            self.contents.count();
        }
    }

    /// Forgets what agents had that are gone.
    pub(super) fn forget_contents(&mut self) {
        self.contents.of.retain(|known, _| self.agents.contains_key(known));
        self.contents.count();
    }

    /// What an agent has, as far as it has told.
    pub fn content_of(&self, agent: &AgentId) -> Option<&BTreeSet<Item>> {
        self.contents.of.get(agent).map(|(_, items)| items)
    }

    /// How many of the things that a cell needs an agent lacks, as far as is known: 0 where it can begin at once.
    pub fn lacks(&self, agent: &AgentId, cell: &CellEntry) -> usize {
        wanted(cell).iter().filter(|item| !self.contents.has(agent, item)).count()
    }

    /// Whether there is anything that some agents have and others lack.
    pub(super) fn contents_differ(&self) -> bool {
        self.contents.having.values().any(|agents| *agents < self.agents.len())
    }

    /// 1 where a trial lacks nothing that another agent has. So nothing is fetched by one agent while another one that
    /// has it could do the trial instead; and what nobody has makes no difference, so that data sets stay interleaved.
    pub(super) fn is_where_its_content_is(&self, trial: &TrialId, holder: &Holder) -> u32 {
        let elsewhere =
            |item: &Item| !self.contents.has(&holder.agent, item) && self.contents.having.contains_key(item);
        u32::from(!self.wanted_by(trial).iter().any(elsewhere))
    }

    fn wanted_by(&self, trial: &TrialId) -> Arc<[Item]> {
        let kind = self.state.kind(trial);
        if kind == KindId::UNKNOWN {
            return Arc::new([]);
        }
        let read = || self.state.cell(&trial.cell).map(|cell| wanted(cell).into()).unwrap_or_default();
        self.contents.wanted.borrow_mut().entry(kind).or_insert_with(read).clone()
    }
}

/// What a cell needs: its data set, and its weights where it has some. Nothing for settings of another version.
pub fn wanted(cell: &CellEntry) -> Vec<Item> {
    let settings = serde_json::from_str::<CellSettings>(&cell.settings.text()).ok();
    settings.and_then(|settings| Item::wanted(&settings).ok()).unwrap_or_default()
}
