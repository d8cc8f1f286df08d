//! Coordinator and agents on virtual time, with everything going wrong that can.
//!
//! A world is made from one seed: the real core over the real journal's bytes on a disk that loses and tears what was
//! not synced, the real agents' halves, a network that loses, delays and cuts, workers that end as workers do, people
//! who submit, cancel and retry. Faults strike for some minutes of virtual time; then they stop, and all must come to a
//! good end. The promises that are checked are sentences in `check.rs`. Nothing here reads a clock, a disk or a socket,
//! so a seed always tells the same story.

mod agent;
mod campaigns;
mod check;
mod contract;
mod coordinator;
mod disk;
mod faults;
mod queue;
mod run;
mod tally;
mod world;

pub use faults::{Fault, Faults};
pub use run::{Failure, Outcome, explain, many, one};
pub use tally::Tally;
