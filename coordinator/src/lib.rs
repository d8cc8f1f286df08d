//! Plans campaigns, leases trials to agents, keeps what they report, and compares it.
//!
//! Links no libtorch and knows no tensor.

pub mod report;
