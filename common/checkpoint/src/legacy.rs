//! What `torch.save` wrote before 1.6, and writes still if asked to: pickles of a magic number, a version, facts about
//! the machine, the object and the list of storages; then each storage, as a count and its numbers.

use crate::error::{Fault, Read};
use crate::limits;
use crate::pickle::{
    Bytes, run,
    tree::{Node, Tree},
};
use crate::source::Source;
use crate::zip::Entry;

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const VERSION: i128 = 1001;

/// Reads the object, and finds the bytes of its storages, which come in the order of their numbers.
pub(crate) fn read(source: &Source) -> Read<(Tree, Vec<Entry>)> {
    let mut bytes = Bytes::new(source.section(0, source.len()), 0, source.len().min(limits::PICKLE));
    for (expected, what) in [(MAGIC, "the number that checkpoints begin with"), (VERSION, "version 1001")] {
        let at = bytes.offset();
        let facts = small(&mut bytes)?;
        if *facts.node(facts.root()) != Node::Int(expected) {
            let found = facts.describe(facts.root());
            let problem =
                format!("expected {what}, found {found}; expected a checkpoint: save it again with torch.save");
            return Err(Fault::at(at, problem));
        }
    }
    let at = bytes.offset();
    let machine = small(&mut bytes)?;
    let little = machine.get(machine.root(), "little_endian").map(|id| machine.node(id));
    if little != Some(&Node::Bool(true)) {
        return Err(Fault::at(at, "expected \"little_endian\": True; load it and save it again on such a machine"));
    }
    let mut tree = Tree::new();
    run(&mut bytes, &mut tree)?;
    let at = bytes.offset();
    let keys = small(&mut bytes)?;
    let Node::List(list) = keys.node(keys.root()) else {
        let found = keys.describe(keys.root());
        return Err(Fault::at(at, format!("expected the list of storages, found {found}; fetch the file again")));
    };
    let mut places = vec![None; tree.storages().len()];
    let mut at = bytes.offset();
    for key in list {
        let (number, place) = match keys.node(*key) {
            Node::Text(key) => tree.storage_called(key).and_then(|n| Some((n, places.get_mut(n as usize)?))),
            _ => None,
        }
        .ok_or_else(|| Fault::at(at, "a storage that the pickle does not speak of; fetch the file again"))?;
        let storage = &tree.storages()[number as usize];
        let count = source.read(at, 8)?;
        let count = count.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if count != storage.numel || place.is_some() {
            let (key, numel) = (&storage.key, storage.numel);
            let problem =
                format!("storage {key:?} has {count} numbers here; expected {numel}, once: fetch the file again");
            return Err(Fault::at(at, problem));
        }
        let size = count * storage.dtype.size();
        let start = at + 8;
        let end = start.checked_add(size).filter(|end| *end <= source.len());
        at = end.ok_or_else(|| {
            let problem = format!(
                "a storage of {size} bytes, but the file ends at {}; it is cut off: fetch it again",
                source.len()
            );
            Fault::at(start, problem)
        })?;
        *place = Some(Entry { start, packed: size, size, deflated: false });
    }
    match places.into_iter().collect() {
        Some(places) => Ok((tree, places)),
        None => Err(Fault::at(at, "fewer storages than the pickle speaks of; fetch the file again")),
    }
}

/// A pickle beside the object's.
fn small<R: std::io::Read>(bytes: &mut Bytes<R>) -> Read<Tree> {
    let mut tree = Tree::new();
    run(bytes, &mut tree)?;
    Ok(tree)
}
