//! Classifying by what models that are not trained make of images.
//!
//! | | |
//! |---|---|
//! | [`published`] | a model from its folder |
//! | [`encoder`] | what it makes of images and texts |
//! | [`fit`] | how many images at once |
//! | [`bank`] | features of the training images |
//! | [`knn`] | by the labels of the nearest training images |
//! | [`probe`] | by a linear layer trained on features |
//! | [`speaker`] | by what a model answers |
//! | `described`, `supported`, `asking` | each of these, in a trial |
//! | `trial` | from a job to its end |

mod asking;
pub mod bank;
mod described;
pub mod encoder;
pub mod fit;
pub mod knn;
pub mod probe;
pub mod published;
pub mod speaker;
mod supported;
mod trial;

pub(crate) use trial::trial;
