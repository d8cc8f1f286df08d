//! `make bench-fleet`: what a coordinator does with hundreds of agents and up to a million trials.
//!
//! | file | |
//! |---|---|
//! | `stage` | a coordinator in a folder of its own, with certificates or without, and who asks it |
//! | `campaign` | campaigns of any number of trials, and records as real agents make them |
//! | `agents` | simulated agents: connected, introduced, leased to and heard of as real ones are, with trials that take no time |
//! | `phase` | agents at work for a while: what they waited for, and what it cost the coordinator |
//! | `page` | what was found beside what was wanted |

mod agents;
mod campaign;
mod page;
mod phase;
mod stage;

pub use agents::{Agents, Pace};
pub use campaign::campaign;
pub use page::{Page, Target};
pub use phase::{Found, Latency};
pub use stage::Stage;
