//! BitFit (Ben Zaken et al., arXiv 2106.10199): biases train, and the head.
//!
//! The rule is the study's: parameters whose name ends in `.bias`. Norms' biases count; tables of attention biases,
//! whose names end otherwise, do not.

use super::Method;

pub(super) struct BitFit;

impl Method for BitFit {
    fn trains(&self, name: &str) -> bool {
        name.ends_with(".bias")
    }
}
