//! What nobody wants any more: states of trials that have ended, and what uploads have left.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use super::Artifacts;
use crate::core::{Input, Reply};

/// How often it is asked which states are wanted.
const EVERY: Duration = Duration::from_secs(30);
/// How many times that is between two looks at all that the store holds.
const WHOLE_EVERY: u32 = 120;
/// A state that is not known may be on its way to be told of, for so long.
const UNTOLD: Duration = Duration::from_secs(3600);
/// An upload that broke may be gone on with for so long.
const BROKEN: Duration = Duration::from_secs(24 * 3600);

impl Artifacts {
    /// Removes states once they are not wanted, and now and then, and at the start, what is left over.
    pub async fn keep_sweeping(self) {
        for turn in 0u32.. {
            if let Err(error) = self.sweep(turn % WHOLE_EVERY == 0).await {
                tracing::warn!(%error, "artifacts that nobody wants could not be removed; trying again later");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Removes what was wanted at the last look and is not now; with `whole`, whatever is not.
    pub(super) async fn sweep(&self, whole: bool) -> Result<(), String> {
        let known = || self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the question: what is noted while it is asked is not judged by its answer.
        let before = std::mem::take(&mut *known());
        let wanted: HashSet<String> = match self.service.driver.ask(Input::Resumables).await {
            Ok(Reply::Resumables(names)) => names.into_iter().collect(),
            other => {
                known().extend(before);
                return Err(other
                    .err()
                    .map_or_else(|| "the core answered another question".to_owned(), |e| e.to_string()));
            }
        };
        known().extend(wanted.iter().cloned());
        before.difference(&wanted).for_each(|name| self.forget(name));
        if whole {
            self.incoming.sweep(BROKEN);
            self.store.sweep(BROKEN).await.map_err(|e| e.to_string())?;
            let old = SystemTime::now().checked_sub(UNTOLD);
            let all = self.store.list("states").await.map_err(|e| e.to_string())?;
            let unwanted = all.into_iter().filter(|e| !wanted.contains(&e.name.to_string()) && Some(e.modified) < old);
            for entry in unwanted {
                // Somebody has told of it since the question.
                if known().contains(&entry.name.to_string()) {
                    continue;
                }
                tracing::info!(name = %entry.name, bytes = entry.bytes, "removing a state that nobody wants");
                self.store.remove(&entry.name).await.map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}
