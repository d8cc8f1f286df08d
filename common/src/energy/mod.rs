//! Counters and power readings → joules over a window: arithmetic only.
//!
//! ```text
//! meters ─► Readings ─► window: counter, or integrated power ─► Energy (total, above idle, uncertainty, flags)
//!                         ▲ Gauge: which readings, idle power, lag and error of the sensor
//! ```

mod baseline;
mod counter;
mod curve;
mod gauge;
mod readings;
mod sensor;
mod square;
mod window;

pub use baseline::{Idle, idle};
pub use counter::{Growth, Unwrap};
pub use curve::{Point, counter_difference, first_fall, integrate, longest_gap};
pub use gauge::{Gauge, PowerSource};
pub use readings::Readings;
pub use sensor::{SensorTerm, default_term};
pub use square::{Response, SquareWave, response};
pub use window::energy_of;
