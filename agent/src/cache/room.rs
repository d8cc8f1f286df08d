//! Who leaves a full cache: those that were wanted longest ago, but none that is in use.

use std::collections::HashMap;
use std::time::SystemTime;

use fleet_content::Digest;

/// An item that is here, or on its way.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// When it was last wanted.
    pub used: SystemTime,
    /// Somebody uses or fetches it.
    pub pinned: bool,
    /// Its blobs; others may have the same ones.
    pub blobs: Vec<(Digest, u64)>,
}

/// Which of `held` have to leave so that `wanted` goes in beside the rest.
///
/// # Errors
/// It would not go in if all of them left that can; the bytes of those that cannot.
pub(super) fn make_room(held: &[&Held], wanted: &[(Digest, u64)], space: u64) -> Result<Vec<usize>, u64> {
    // How many items have each blob; it takes space once.
    let mut owners: HashMap<&Digest, (u64, usize)> = HashMap::new();
    for (sha256, bytes) in wanted.iter().chain(held.iter().flat_map(|h| &h.blobs)) {
        owners.entry(sha256).or_insert((*bytes, 0)).1 += 1;
    }
    let mut taken: u128 = owners.values().map(|(bytes, _)| u128::from(*bytes)).sum();
    let mut order: Vec<usize> = (0..held.len()).filter(|at| !held[*at].pinned).collect();
    order.sort_by_key(|at| held[*at].used);
    let mut leaves = Vec::new();
    for at in order {
        if taken <= u128::from(space) {
            break;
        }
        for (sha256, bytes) in &held[at].blobs {
            if let Some((_, count)) = owners.get_mut(sha256) {
                *count -= 1;
                if *count == 0 {
                    taken -= u128::from(*bytes);
                }
            }
        }
        leaves.push(at);
    }
    if taken <= u128::from(space) {
        return Ok(leaves);
    }
    let pinned: HashMap<&Digest, u64> =
        held.iter().filter(|h| h.pinned).flat_map(|h| &h.blobs).map(|(sha256, bytes)| (sha256, *bytes)).collect();
    Err(pinned.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn digest(number: u8) -> Digest {
        format!("{number:064x}").parse().expect("a hash")
    }

    /// Blobs by number; a number always has the same length.
    fn blobs(numbers: &[u8]) -> Vec<(Digest, u64)> {
        let distinct: BTreeMap<u8, u64> = numbers.iter().map(|n| (*n, u64::from(*n) * 7 + 1)).collect();
        distinct.into_iter().map(|(n, bytes)| (digest(n), bytes)).collect()
    }

    /// What the blobs of some items take, computed the plain way.
    fn takes<'a>(of: impl Iterator<Item = &'a Vec<(Digest, u64)>>) -> u64 {
        of.flatten().cloned().collect::<BTreeMap<_, _>>().values().sum()
    }

    proptest! {
        #[test]
        fn the_longest_unused_leave_and_no_more_than_have_to(
            items in proptest::collection::vec((proptest::collection::vec(0u8..20, 1..5), 0u64..9, any::<bool>()), 0..9),
            wanted in proptest::collection::vec(0u8..20, 1..5),
            space in 0u64..900,
        ) {
            let held: Vec<Held> = items.iter().map(|(numbers, used, pinned)| Held {
                used: SystemTime::UNIX_EPOCH + Duration::from_secs(*used), pinned: *pinned, blobs: blobs(numbers),
            }).collect();
            let wanted = blobs(&wanted);
            let after = |gone: &[usize]| {
                let stays = held.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, h)| &h.blobs);
                takes(stays.chain([&wanted]))
            };
            let entries: Vec<&Held> = held.iter().collect();
            match make_room(&entries, &wanted, space) {
                Ok(leaves) => {
                    prop_assert!(after(&leaves) <= space);
                    prop_assert!(leaves.iter().all(|at| !held[*at].pinned));
                    if let Some((_, without_last)) = leaves.split_last() {
                        prop_assert!(after(without_last) > space, "one left in vain");
                    }
                    for (at, stays) in held.iter().enumerate().filter(|(at, h)| !h.pinned && !leaves.contains(at)) {
                        prop_assert!(leaves.iter().all(|gone| held[*gone].used <= stays.used), "{at} was older");
                    }
                }
                Err(pinned) => {
                    let all: Vec<usize> = (0..held.len()).filter(|at| !held[*at].pinned).collect();
                    prop_assert!(after(&all) > space);
                    prop_assert_eq!(pinned, takes(held.iter().filter(|h| h.pinned).map(|h| &h.blobs)));
                }
            }
        }
    }
}
