//! The pure domain of NetScore Fleet.
//!
//! This crate reads no clock, file, socket, environment variable or operating-system random number: time and
//! randomness are arguments. It knows no tokio, no tonic and no tch. So everything that decides something can be
//! tested here in microseconds.
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | what a user may ask for: the campaign file, parsed into types that cannot be wrong |
//! | [`plan`] | campaign → cells → trials, and every combination left out with its reason |
//! | [`lease`] | the state machine of a trial: waiting, leased, finished |
//! | [`record`] | what a finished trial is |
//! | [`record_set`] | records in a file: what is accepted, and what each mistake is called |
//! | [`score`] | the NetScore family, Pareto fronts, summaries, rank agreement |
//! | [`compare`] | records → groups with mean and spread, scores, fronts |
//! | [`contrast`] | records → one factor's levels side by side: ratios, rank agreement, and what is not comparable |
//! | [`energy`] | counters and power readings → joules |
//! | [`chain`] | what to hold and what to pay for again along a line of stages: the exact solver behind planned checkpointing |
//! | [`answer`] | which class a model's answer in words means |
//! | [`tags`] | what operators say about a machine: `key=value` |
//! | [`telemetry`] | samples: numbered readings on one monotonic clock |
//! | [`memory`] | how much memory a training step will need, before anything runs |
//! | [`profile`] | memory and time of one training step, block by block |
//! | [`worker`] | the conversation between the agent's daemon and a worker process |
//! | [`wire`] | the gRPC messages, and the one place that parses them |
//! | [`id`], [`units`], [`canonical`] | names, quantities, hashing |

pub mod answer;
pub mod canonical;
pub mod chain;
pub mod compare;
pub mod contrast;
pub mod energy;
pub mod id;
pub mod lease;
pub mod memory;
pub mod plan;
pub mod profile;
pub mod record;
pub mod record_set;
pub mod score;
pub mod spec;
pub mod tags;
pub mod telemetry;
pub mod units;
pub mod verify;
pub mod wire;
pub mod worker;
