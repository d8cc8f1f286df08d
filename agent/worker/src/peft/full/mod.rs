//! Full fine-tuning: everything trains.

use super::Method;

pub(super) struct Full;

impl Method for Full {
    fn trains(&self, _name: &str) -> bool {
        true
    }
}
