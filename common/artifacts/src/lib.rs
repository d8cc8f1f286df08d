//! Files under the name of their content, in a folder or an S3-compatible store.
//!
//! [`Store`] is all there is to know: open one by its address, put files in, get them out, list and remove them. A
//! [`Name`] is a folder and the SHA-256 of the content, so what comes out is what went in, or an error: never other
//! bytes.

mod content;
mod credentials;
mod download;
mod error;
mod location;
mod name;
mod pace;
mod staged;
mod store;

pub use content::sha256_of;
pub use error::StoreError;
pub use name::{Name, NameError, Sha256};
pub use pace::Pace;
pub use store::{Entry, Store};
