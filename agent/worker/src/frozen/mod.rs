//! Classifying by what models that are not trained make of images.
//!
//! | | |
//! |---|---|
//! | [`knn`] | by the labels of the nearest training images |
//! | [`probe`] | by a linear layer trained on features |

pub mod knn;
pub mod probe;
