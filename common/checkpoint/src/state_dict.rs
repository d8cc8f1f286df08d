//! Which of a checkpoint's values are the model's weights, and under which names.

use std::collections::{BTreeMap, HashMap};

use crate::limits;
use crate::pickle::tree::{Id, Node, Tree};
use crate::tensor::Tensor;

/// Keys under which weights are published, the likeliest first.
pub const KEYS: [&str; 9] =
    ["model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights", "params"];

/// What a model that was trained on several devices puts before each name.
const PARALLEL: &str = "module.";

/// Named tensors of a checkpoint.
#[derive(Debug)]
pub struct StateDict<'a> {
    /// The key that they are under; `None` where they are all that there is.
    pub under: Option<String>,
    /// By name, with dots between the keys of dicts within dicts.
    pub tensors: BTreeMap<String, &'a Tensor>,
    /// What is in the checkpoint besides.
    pub skipped: Vec<Skipped>,
}

/// Something that is no part of the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its key, or keys with dots between them.
    pub name: String,
    /// What it is, in words.
    pub what: String,
}

/// Selects the dict under the key `under`; without one, that under the first of [`KEYS`] that has tensors, or else all.
///
/// # Errors
/// There is no such key, or there are no tensors; in words.
pub(crate) fn select<'a>(tree: &'a Tree, under: Option<&str>) -> Result<StateDict<'a>, String> {
    let root = tree.root();
    let Node::Dict(entries) = tree.node(root) else {
        return Err(format!(
            "expected a dict of tensors, found {}; save the model's state_dict() with torch.save",
            tree.describe(root)
        ));
    };
    let found = match under {
        Some(key) => Some((key, tree.get(root, key).ok_or_else(|| no_key(tree, entries, key))?)),
        None => KEYS.iter().find_map(|key| {
            let value = tree.get(root, key)?;
            flatten(tree, value).is_ok_and(|walk| !walk.tensors.is_empty()).then_some((*key, value))
        }),
    };
    let mut walk = flatten(tree, found.map_or(root, |(_, value)| value))?;
    if walk.tensors.is_empty() {
        let place = found.map_or(String::new(), |(key, _)| format!(" under {key:?}"));
        return Err(format!(
            "expected a dict of tensors{place}, found none; save the model's state_dict() with torch.save"
        ));
    }
    if let Some((key, _)) = found {
        for (beside, value) in entries {
            let name = key_name(tree, *beside);
            if name.as_deref() != Some(key) {
                walk.skip(tree, name.unwrap_or_else(|| tree.describe(*beside)), *value)?;
            }
        }
    }
    if walk.tensors.keys().all(|name| name.starts_with(PARALLEL)) {
        walk.tensors = walk.tensors.into_iter().map(|(name, t)| (name[PARALLEL.len()..].to_owned(), t)).collect();
    }
    Ok(StateDict { under: found.map(|(key, _)| key.to_owned()), tensors: walk.tensors, skipped: walk.skipped })
}

fn no_key(tree: &Tree, entries: &[(Id, Id)], key: &str) -> String {
    let mut there: Vec<_> = entries.iter().filter_map(|(key, _)| key_name(tree, *key)).take(20).collect();
    there.dedup();
    format!("expected the key {key:?}, found {}", there.join(", "))
}

/// A way through nested dicts.
#[derive(Default)]
struct Walk<'a> {
    tensors: BTreeMap<String, &'a Tensor>,
    skipped: Vec<Skipped>,
    /// Bytes of all names.
    named: usize,
}

fn flatten(tree: &Tree, top: Id) -> Result<Walk<'_>, String> {
    let mut walk = Walk::default();
    // Each dict once: one that contains itself, or is contained a thousand times over, ends here.
    let mut seen: HashMap<Id, String> = HashMap::new();
    let mut left = vec![(top, String::new(), 0)];
    while let Some((id, name, depth)) = left.pop() {
        let entries = match tree.node(id) {
            Node::Tensor(tensor) if !name.is_empty() => {
                walk.count(&name, "")?;
                if walk.tensors.insert(name.clone(), tensor).is_some() {
                    return Err(format!("two tensors are called {name} once the names of dicts are joined with dots"));
                }
                continue;
            }
            Node::Dict(entries) => entries,
            _ => {
                walk.skip(tree, name, id)?;
                continue;
            }
        };
        if depth == limits::DEPTH {
            return Err(format!(
                "dicts within dicts, more than {depth} deep, at {:.80}…; expected names of tensors",
                name
            ));
        }
        if let Some(first) = seen.insert(id, name.clone()) {
            return Err(format!(
                "{name:?} is the same dict as {first:?}, or contains it; expected each dict in one place"
            ));
        }
        // Of equal keys the last one counts.
        let mut unique: HashMap<String, Id> = HashMap::new();
        for (key, value) in entries {
            let Some(key) = key_name(tree, *key) else {
                walk.skip(tree, format!("{name}.({})", tree.describe(*key)), *value)?;
                continue;
            };
            let full = if name.is_empty() { key } else { format!("{name}.{key}") };
            if full.len() > limits::NAME {
                return Err(format!("a name of {} bytes; expected at most {}", full.len(), limits::NAME));
            }
            walk.count(&full, "")?;
            unique.insert(full, *value);
        }
        left.extend(unique.into_iter().map(|(full, value)| (value, full, depth + 1)));
    }
    walk.skipped.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(walk)
}

impl Walk<'_> {
    fn skip(&mut self, tree: &Tree, name: String, value: Id) -> Result<(), String> {
        let what = tree.describe(value);
        self.count(&name, &what)?;
        self.skipped.push(Skipped { name, what });
        Ok(())
    }

    /// Bounds what names take: a short key may stand within a long name thousands of times.
    fn count(&mut self, name: &str, what: &str) -> Result<(), String> {
        // As much again for what surrounds each.
        self.named += name.len() + what.len() + 64;
        if self.named > limits::NAMES {
            return Err(format!("names of more than {} bytes; no checkpoint needs that", limits::NAMES));
        }
        Ok(())
    }
}

/// A key as part of a name, if it can be one.
fn key_name(tree: &Tree, key: Id) -> Option<String> {
    match tree.node(key) {
        Node::Text(text) => Some(text.to_string()),
        Node::Int(number) => Some(number.to_string()),
        _ => None,
    }
}
