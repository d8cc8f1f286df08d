//! Data → SVG, for the coordinator's pages and the agent's pictures.
//!
//! Pure: nothing here reads a file or a clock. What a chart of records shows is decided by its users; here is what they
//! draw with.
//!
//! | module | what it holds |
//! |---|---|
//! | [`palette`] | which colour, mark and dash stands for what, on light and on dark |
//! | [`scale`] | axes with round ticks |
//! | [`panel`] | one chart: marks in, SVG out, by way of `plotters` |
//! | [`step`] | memory over training steps, on common axes |
//! | [`sheet`] | several of them as an SVG file |
//! | [`numbers`] | quantities in as many digits as mean something |

pub mod numbers;
pub mod palette;
pub mod panel;
pub mod scale;
pub mod sheet;
pub mod step;
