//! Pickles: programs for a machine with a stack, read here without running anything that they name.
//!
//! | module | |
//! |---|---|
//! | `bytes` | the stream, with its position and its end |
//! | `machine` | the operations |
//! | `stack` | what they work on: what is pushed, collected and remembered |
//! | `rebuild` | the few calls that mean data; all others become a value that holds nothing |
//! | [`tree`] | what comes out |

mod bytes;
mod machine;
mod rebuild;
mod stack;
pub mod tree;

pub(crate) use bytes::Bytes;
pub(crate) use machine::run;
