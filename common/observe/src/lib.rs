//! What operators see of a running program: metrics and health over HTTP, and its log.
//!
//! | module | what it holds |
//! |---|---|
//! | [`page`] | metrics, declared once, and their values at one moment as text for Prometheus |
//! | [`http`] | `/metrics` and `/healthz` |
//! | [`process`] | what every program tells of its own process |
//! | [`log`] | log lines for people or for programs |
//! | `exposition` | a page read back, strictly: for tests |

#[cfg(feature = "exposition")]
pub mod exposition;
pub mod http;
pub mod log;
pub mod page;
pub mod process;
