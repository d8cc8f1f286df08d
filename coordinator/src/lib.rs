//! Plans campaigns, leases trials to agents, keeps what they report, and compares it.
//!
//! Links no libtorch and knows no tensor.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the `fleet` command |
//! | [`core`] | decisions: inputs in, events and replies out; pure |
//! | [`driver`] | owns the core: inputs in, journal, answers out |
//! | [`metrics`] | what Prometheus reads: counts since the start, and where things stand |
//! | [`service`] | the gRPC edge |
//! | [`scheduler`] | which waiting trial a free slot gets; pure |
//! | [`security`] | certificates, and who may call what |
//! | [`store`] | journal, index, samples |
//! | [`report`] | records → table and HTML; pure |

pub mod cli;
pub mod core;
pub mod driver;
pub mod metrics;
pub mod report;
pub mod scheduler;
pub mod security;
pub mod service;
pub mod store;
