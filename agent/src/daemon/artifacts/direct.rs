//! Whether a store can be talked to from here. Behind a firewall every request would take a minute to fail, and what it is
//! for has less.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet_artifacts::{Name, Store};

/// A store that does not answer a small question in this time is not reached.
const ANSWER: Duration = Duration::from_secs(8);
/// One that was not reached, or failed, is tried again after so long.
const AGAIN: Duration = Duration::from_secs(300);

/// What the last try came to.
#[derive(Debug, Default)]
pub(super) struct Direct(Mutex<Last>);

#[derive(Debug, Default, Clone, Copy)]
enum Last {
    #[default]
    Unknown,
    Works,
    Failed(Instant),
}

impl Direct {
    /// The store, unless there is another way and this one does not work, or did not a while ago.
    pub(super) async fn or_not(&self, store: Option<Store>, has_other: bool, name: &Name) -> Option<Store> {
        let store = store?;
        let last = *self.last();
        match last {
            _ if !has_other => return Some(store),
            Last::Works => return Some(store),
            Last::Failed(at) if at.elapsed() < AGAIN => return None,
            Last::Failed(_) | Last::Unknown => {}
        }
        match tokio::time::timeout(ANSWER, store.size(name)).await {
            Ok(Ok(_)) => {
                *self.last() = Last::Works;
                Some(store)
            }
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => {
                self.failed(&format!("{store} does not answer within {} s", ANSWER.as_secs()));
                None
            }
        }
    }

    /// It failed.
    pub(super) fn failed(&self, why: &dyn std::fmt::Display) {
        *self.last() = Last::Failed(Instant::now());
        tracing::warn!("going through the coordinator for {} minutes: {why}", AGAIN.as_secs() / 60);
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
