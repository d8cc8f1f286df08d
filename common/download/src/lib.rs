//! Public data sets and weights: where they are, what they must be, and how they get here.
//!
//! | module | what it holds |
//! |---|---|
//! | [`source`] | the table of files: address, size, hashes, and who states them |
//! | [`published`] | where the models are that are used as they were published |
//! | [`content`] | what a file must be, and whether it is |
//! | [`fetch`] | the download: resumed, repeated, checked, and only then put in its place |
//! | `http` | one request and what its answer means |
//! | `partial` | the file beside its place, and what is needed to go on with it |
//! | [`unpack`] | an archive of a data set → a folder, trusting nothing in it |
//! | [`weights`] | what a weights file says of itself |

pub mod content;
mod error;
pub mod fetch;
mod http;
mod partial;
pub mod published;
pub mod source;
pub mod unpack;
pub mod weights;

pub use error::DownloadError;
pub use partial::set_aside;
