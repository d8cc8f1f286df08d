//! What `torch.save` writes since 1.6: a zip archive `NAME/data.pkl`, `NAME/data/KEY` for each storage, and small
//! entries that say how numbers are written.

use std::collections::HashMap;
use std::io::Read as _;

use flate2::read::DeflateDecoder;

use crate::error::{Fault, Read};
use crate::limits;
use crate::pickle::{Bytes, run, tree::Tree};
use crate::source::Source;
use crate::zip::{self, Entry};

/// Reads the archive's pickle, and finds the bytes of its storages, which come in the order of their numbers.
pub(crate) fn read(source: &Source) -> Read<(Tree, Vec<Entry>)> {
    let entries = zip::entries(source)?;
    let (name, prefix) = pickle_name(&entries)?;
    if entries.contains_key(&format!("{prefix}constants.pkl")) {
        let problem = "a TorchScript archive, which holds a program; expected a checkpoint: load it with torch.jit.load and \
                       save its state_dict() with torch.save";
        return Err(Fault::at(0, problem));
    }
    if let Some(entry) = entries.get(&format!("{prefix}byteorder")) {
        let order = unpack(source, *entry, 0, entry.size.min(16))?;
        if order.trim_ascii() != b"little" {
            let found = String::from_utf8_lossy(&order).into_owned();
            let problem =
                format!("byte order {found:?}; expected \"little\": load it and save it again on such a machine");
            return Err(Fault::at(entry.start, problem));
        }
    }
    let entry = entries[&name];
    if entry.size > limits::PICKLE {
        let problem = format!("{name} has {} bytes; expected at most {}", entry.size, limits::PICKLE);
        return Err(Fault::at(entry.start, problem));
    }
    let mut tree = Tree::new();
    let packed = source.section(entry.start, entry.packed);
    // In a packed pickle bytes are counted as unpacked: the file has no such place.
    if entry.deflated {
        let mut bytes = Bytes::new(DeflateDecoder::new(packed), 0, entry.size);
        run(&mut bytes, &mut tree).map_err(|fault| fault.within(&name))?;
    } else {
        run(&mut Bytes::new(packed, entry.start, entry.size), &mut tree)?;
    }
    let places = tree.storages().iter().map(|storage| {
        let name = format!("{prefix}data/{}", storage.key);
        let wanted = storage.numel * storage.dtype.size();
        match entries.get(&name) {
            Some(place) if wanted <= place.size => Ok(*place),
            Some(place) => Err(Fault::at(
                place.start,
                format!(
                    "{name} has {} bytes; the pickle says {wanted}: the file is damaged, fetch it again",
                    place.size
                ),
            )),
            None => {
                Err(Fault::at(entry.start, format!("the pickle speaks of {name}, which the archive does not have")))
            }
        }
    });
    let places = places.collect::<Read<Vec<_>>>()?;
    Ok((tree, places))
}

/// The name of the pickle, and what comes before it and before all other names.
fn pickle_name(entries: &HashMap<String, Entry>) -> Read<(String, String)> {
    let mut names = entries.keys().filter_map(|name| {
        let prefix = name.strip_suffix("data.pkl")?;
        let top = prefix.is_empty() || prefix.find('/') == Some(prefix.len() - 1);
        top.then(|| (name.clone(), prefix.to_owned()))
    });
    match (names.next(), names.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => {
            Err(Fault::at(0, "a zip archive with several data.pkl; expected one, as torch.save writes it"))
        }
        (None, _) => Err(Fault::at(0, "a zip archive without a data.pkl; expected one, as torch.save writes it")),
    }
}

/// `len` bytes of an unpacked entry, from byte `from` of it on.
pub(crate) fn unpack(source: &Source, entry: Entry, from: u64, len: u64) -> Read<Vec<u8>> {
    if !entry.deflated {
        return source.read(entry.start + from, len);
    }
    let mut unpacked = DeflateDecoder::new(source.section(entry.start, entry.packed));
    let broken = |e: &dyn std::fmt::Display| {
        Fault::at(entry.start, format!("cannot unpack this entry: {e}; fetch the file again"))
    };
    std::io::copy(&mut unpacked.by_ref().take(from), &mut std::io::sink()).map_err(|e| broken(&e))?;
    let mut bytes = Vec::new();
    unpacked.take(len).read_to_end(&mut bytes).map_err(|e| broken(&e))?;
    if bytes.len() as u64 != len {
        return Err(broken(&format!("expected {len} bytes from {from} on, found {}", bytes.len())));
    }
    Ok(bytes)
}
