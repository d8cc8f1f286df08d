//! What the coordinator tells Prometheus: what it has counted since its start, and where things stand when it is asked.
//!
//! Counting happens at the edges: in the driver for what became durable or was answered, in the services for what
//! arrived. The core knows nothing of it; where things stand is what it answers to a question for the status.

mod counts;
mod endpoint;
mod requests;
mod standing;
mod tally;

use std::path::Path;

use fleet_observe::page::Page;
use fleet_observe::process;

pub use counts::Counts;
pub use endpoint::Endpoint;
pub use requests::Timed;
pub use tally::Tally;

use crate::core::Snapshot;
use crate::store::Health;

/// The text for a scrape: what was counted, where things stand, how full the driver's inbox is, and the process.
fn text(counts: &Counts, snapshot: &Snapshot, queued: usize, health: &Health, state: &Path) -> String {
    let mut page = Page::of(process::METRICS.iter().chain(standing::ALL));
    process::put(&mut page, "fleet", env!("CARGO_PKG_VERSION"), state);
    page.put(&standing::QUEUED, [], queued as f64);
    standing::put_health(&mut page, health);
    standing::put(&mut page, snapshot);
    page.text(counts.registry())
}

/// What a coordinator shows that knows nothing yet: every metric is declared in it.
pub fn declared() -> String {
    let nothing = Snapshot { campaigns: Vec::new(), agents: Vec::new(), imported: Vec::new() };
    text(&Counts::default(), &nothing, 0, &Health::default(), Path::new("/"))
}
