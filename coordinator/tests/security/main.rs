//! A real coordinator with certificates, and everybody who should not get further: refused, logged, counted.
//!
//! | file | |
//! |---|---|
//! | `world` | the coordinator's process, and certificates of every kind |
//! | `handshakes` | who gets in: authority, time, revocation |
//! | `roles` | who may do what, and on whose leases |
//! | `tokens` | joining |
//! | `limits` | slow and greedy peers |
//! | `life` | renewal and replacement while something is under way |

mod handshakes;
mod life;
mod limits;
mod roles;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod world;
