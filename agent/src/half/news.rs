//! What is on this machine of data sets and weights, and what the coordinator was told of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_content::Item;

/// Data sets and weights that are here, as far as it was looked.
pub type Here = Arc<BTreeSet<Item>>;

/// What is here, for the coordinator. The latest number counts, in whatever order such messages arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Above those of all introductions and all that was told before.
    pub number: u64,
    /// All of it.
    pub here: Here,
}

#[derive(Debug, Default)]
pub(super) struct News {
    here: Here,
    /// On its way with a question.
    asked: Option<Here>,
    /// What the coordinator has for certain.
    told: Option<Here>,
}

impl News {
    pub(super) fn look(&mut self, here: BTreeSet<Item>) {
        if *self.here != here {
            self.here = Arc::new(here);
        }
    }

    /// All of it, for an introduction.
    pub(super) fn all(&mut self) -> Here {
        self.asked = Some(self.here.clone());
        self.here.clone()
    }

    /// All of it, if the coordinator may not have it.
    pub(super) fn changed(&mut self) -> Option<Here> {
        let changed = self.told.as_ref() != Some(&self.here);
        self.asked = changed.then(|| self.here.clone());
        self.asked.clone()
    }

    /// The question that it was on its way with was answered, or not.
    pub(super) fn answered(&mut self, heard: bool) {
        let Some(asked) = self.asked.take() else { return };
        // Without an answer it may have arrived, or not, and may still arrive.
        self.told = heard.then_some(asked);
    }
}
