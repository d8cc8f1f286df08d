//! What must hold for any bytes at all: no panic, no abort, bounded memory, and what is said beside each function.
//!
//! The fuzz targets in `targets/` call these functions with bytes that a fuzzer makes, the test in `tests/corpus.rs`
//! with the files in `corpus/`. What they claim is in `README.md`.

mod archives;
mod bytes;
mod campaign;
mod checkpoint;
mod content;
mod dataset;
mod events;
mod folder;
mod journal;
mod record;
mod secure;
mod store;
mod weights;
mod wire;

pub use campaign::campaign;
pub use checkpoint::{checkpoint, pickle};
pub use content::manifest;
pub use dataset::{cifar, hub, image, lists};
pub use events::story;
pub use journal::journal;
pub use record::records;
pub use secure::secure;
pub use store::{archive, store};
pub use weights::{adapter, weights};
pub use wire::messages;

/// A function that any bytes may be given to.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("adapter", adapter),
    ("archive", archive),
    ("campaign", campaign),
    ("checkpoint", checkpoint),
    ("cifar", cifar),
    ("hub", hub),
    ("image", image),
    ("journal", journal),
    ("lists", lists),
    ("manifest", manifest),
    ("messages", messages),
    ("pickle", pickle),
    ("records", records),
    ("secure", secure),
    ("store", store),
    ("story", story),
    ("weights", weights),
];
