//! Plans campaigns, leases trials to agents, keeps what they report, and compares it.
//!
//! Links no libtorch and knows no tensor.
//!
//! | module | what it holds |
//! |---|---|
//! | [`core`] | decisions: inputs in, events and replies out; pure |
//! | [`scheduler`] | which waiting trial a free slot gets; pure |
//! | [`report`] | records → table and HTML; pure |

pub mod core;
pub mod report;
pub mod scheduler;
