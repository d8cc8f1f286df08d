//! What agents have of data and weights: a hint for placement, never a condition, because what is missing is fetched.

use std::collections::HashSet;

use fleet_common::id::AgentId;
use fleet_common::plan::CellSettings;
use fleet_content::Item;

use super::{CellEntry, Core};

impl Core {
    /// Notes what an agent says that it has. Agents that are gone are forgotten on the way.
    pub(super) fn has(&mut self, agent: &AgentId, content: HashSet<Item>) {
        let agents = &self.agents;
        self.content.retain(|known, _| agents.contains_key(known));
        if agents.contains_key(agent) {
            self.content.insert(agent.clone(), content);
        }
    }

    /// How many of the things that a cell needs an agent lacks, as far as is known: 0 where it can begin at once. Reads
    /// the cell's settings, so whoever asks often should keep [`wanted`] instead and ask [`Self::lacks_of`].
    pub fn lacks(&self, agent: &AgentId, cell: &CellEntry) -> usize {
        self.lacks_of(agent, &wanted(cell))
    }

    /// The same for what [`wanted`] said.
    pub fn lacks_of(&self, agent: &AgentId, wanted: &[Item]) -> usize {
        match self.content.get(agent) {
            Some(has) => wanted.iter().filter(|item| !has.contains(item)).count(),
            None => wanted.len(),
        }
    }
}

/// What a cell needs: its data set, and its weights where it has some. Nothing for settings of another version.
pub fn wanted(cell: &CellEntry) -> Vec<Item> {
    let settings = serde_json::from_str::<CellSettings>(&cell.settings_json).ok();
    settings.and_then(|settings| Item::wanted(&settings).ok()).unwrap_or_default()
}
