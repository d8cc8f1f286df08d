//! Settings as text, apart from their seed. The cells of a combination differ in that number alone, and a campaign may have
//! fifty thousand of them: the text around it is kept once.

use std::collections::HashSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::CellSettings;
use crate::canonical;
use crate::id::CellId;

/// What stands around the seed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Around {
    /// In front of it.
    pub front: String,
    /// Behind it.
    pub behind: String,
}

/// The canonical JSON of a cell's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsText {
    around: Arc<Around>,
    seed: Option<u64>,
}

/// The key of the seed; keys are sorted, so it stands in the middle.
const SEED: &str = "\"seed\":";

impl SettingsText {
    /// Of that seed in that text; without a seed, the text is all.
    pub fn new(around: Arc<Around>, seed: Option<u64>) -> Self {
        Self { around, seed }
    }

    /// Takes a text apart. One without a seed that can be told apart is kept as it is.
    pub fn of(text: &str) -> Self {
        let apart = text.rfind(SEED).and_then(|at| {
            let (front, rest) = text.split_at(at + SEED.len());
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let seed: u64 = rest[..digits].parse().ok()?;
            // Leading zeros would be lost.
            (seed.to_string().len() == digits).then(|| (front, seed, &rest[digits..]))
        });
        match apart {
            Some((front, seed, behind)) => {
                Self::new(Arc::new(Around { front: front.to_owned(), behind: behind.to_owned() }), Some(seed))
            }
            None => Self::new(Arc::new(Around { front: text.to_owned(), behind: String::new() }), None),
        }
    }

    /// The text.
    pub fn text(&self) -> String {
        let Around { front, behind } = self.around.as_ref();
        match self.seed {
            Some(seed) => format!("{front}{seed}{behind}"),
            None => format!("{front}{behind}"),
        }
    }

    /// What stands around the seed.
    pub fn around(&self) -> &Arc<Around> {
        &self.around
    }

    /// The seed.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }
}

/// Texts that are kept once each.
#[derive(Debug, Default)]
pub struct Texts(HashSet<Arc<Around>>);

impl Texts {
    /// The text that equals this one and is kept.
    pub fn share(&mut self, text: SettingsText) -> SettingsText {
        let SettingsText { around, seed } = text;
        SettingsText { around: self.keep(around), seed }
    }

    /// The same of what stands around a seed.
    pub fn keep(&mut self, around: Arc<Around>) -> Arc<Around> {
        match self.0.get(&around) {
            Some(kept) => kept.clone(),
            None => {
                self.0.insert(around.clone());
                around
            }
        }
    }
}

/// Makes the ids of a combination's cells: the hash goes on from what stands in front of the seed.
pub(super) struct Hasher {
    around: Arc<Around>,
    front: Sha256,
}

impl Hasher {
    pub(super) fn of(settings: &CellSettings) -> Self {
        let around = SettingsText::of(&canonical::json(settings)).around;
        let front = Sha256::new_with_prefix(&around.front);
        Self { around, front }
    }

    pub(super) fn around(&self) -> &Arc<Around> {
        &self.around
    }

    /// [`CellSettings::id`] of the settings with this seed.
    pub(super) fn id(&self, seed: u64) -> CellId {
        let hash = self.front.clone().chain_update(seed.to_string()).chain_update(&self.around.behind).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        CellId::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_taken_apart_and_shared() {
        let mut texts = Texts::default();
        let [a, b] = ["{\"a\":1,\"seed\":7,\"train\":{}}", "{\"a\":1,\"seed\":18446744073709551615,\"train\":{}}"]
            .map(|text| texts.share(SettingsText::of(text)));
        assert!(Arc::ptr_eq(a.around(), b.around()));
        assert_eq!((a.seed(), b.seed()), (Some(7), Some(u64::MAX)));
    }

    proptest! {
        /// Whatever a text is, it comes out as it went in.
        #[test]
        fn no_text_is_changed(text in "(\\PC{0,20}(\"seed\":)?[0-9]{0,22}\\PC{0,20}){0,3}") {
            prop_assert_eq!(SettingsText::of(&text).text(), text);
        }
    }
}
