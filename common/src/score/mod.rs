//! Scores: the NetScore family, summaries over seeds and their intervals, Pareto fronts, agreement of rankings.

pub mod interval;
mod kendall;
mod netscore;
mod pareto;
mod summary;

pub use kendall::{FEWEST, NoAgreement, kendall_tau_b};
pub(crate) use netscore::Costs;
pub use netscore::{Exponents, NoScore, Scores, netscore, netscore_all, netscore_energy, netscore_memory};
pub use pareto::pareto_front;
pub use summary::Summary;
