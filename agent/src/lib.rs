//! One agent per machine: it owns the devices, runs a worker process per leased trial, and meters it.
//!
//! It knows nothing of the matrix or of other agents, and links no libtorch: `doctor` works on exactly the machines
//! where libtorch does not.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | what is here: CPU, GPUs, their classes and locks |
//! | [`meter`] | raw counters → samples |
//! | [`metrics`] | what Prometheus reads |
//! | [`daemon`] | leases held, worker processes, samples and records on their way to the coordinator |
//! | [`half`] | the agent's decisions on leases and records; pure |
//! | [`doctor`] | what this machine has, what is missing, how to get it |
//! | [`calibrate`] | a close look at meters, kept for the records |
//! | [`files`] | data sets and weights in this machine's folders, by content |
//! | [`cache`] | those that were fetched |
//! | [`ask`] | questions to the worker program |
//! | [`verify`] | reference folders through our implementation |
//! | [`profile`] | memory and time of a training step, block by block |

/// Version of this program, and the commit that it was built from where that is known.
pub const VERSION: &str = env!("FLEET_VERSION");

pub mod ask;
pub mod cache;
pub mod calibrate;
mod clock;
pub mod daemon;
pub mod device;
pub mod doctor;
pub mod files;
pub mod half;
pub mod meter;
pub mod metrics;
pub mod profile;
pub mod verify;
