//! A state and what belongs to it, as one file: a tar of two.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use fleet_artifacts::{Sha256, sha256_of};

/// The worker's file.
const STATE: &str = "state.safetensors";
/// Ours: times, energies and segments up to that state.
const CARRIED: &str = "carried.json";
/// The second is some kilobytes; whoever sends more sends something else.
const LARGEST_CARRIED: u64 = 64 << 20;

/// Writes both into the file `to`; returns its hash. The same two make the same file.
pub(super) fn pack(state: &File, carried: &[u8], to: &Path) -> std::io::Result<Sha256> {
    let mut state = state;
    state.rewind()?;
    let length = state.metadata()?.len();
    let mut tar = tar::Builder::new(File::create(to)?);
    let header = |length: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o644);
        header
    };
    tar.append_data(&mut header(carried.len() as u64), CARRIED, carried)?;
    tar.append_data(&mut header(length), STATE, state)?;
    tar.into_inner()?.flush()?;
    sha256_of(to)
}

/// Writes the state into the file `state`, durably; returns the other part.
///
/// # Errors
/// It is no such bundle, or the disk refuses; in words.
pub(super) fn unpack(bundle: &Path, state: &Path) -> Result<Vec<u8>, String> {
    let wrong = |e: std::io::Error| format!("{}: {e}", bundle.display());
    let mut tar = tar::Archive::new(File::open(bundle).map_err(wrong)?);
    let (mut carried, mut has_state) = (None, false);
    for entry in tar.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let is_file = entry.header().entry_type().is_file();
        let name = entry.path().map_err(wrong)?.into_owned();
        if is_file && name == Path::new(CARRIED) && entry.size() <= LARGEST_CARRIED {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(wrong)?;
            carried = Some(bytes);
        } else if is_file && name == Path::new(STATE) {
            let here = |e: std::io::Error| format!("{}: {e}", state.display());
            let mut file = File::create(state).map_err(here)?;
            std::io::copy(&mut entry, &mut file).map_err(here)?;
            file.sync_all().map_err(here)?;
            has_state = true;
        } else {
            return Err(format!("expected {CARRIED} and {STATE}, found {}", name.display()));
        }
    }
    carried.filter(|_| has_state).ok_or_else(|| format!("expected {CARRIED} and {STATE}, found less"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_out_and_other_archives_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("state"), vec![7; 100_000]).expect("writes");
        let state = File::open(at("state")).expect("opens");
        let first = pack(&state, b"{}", &at("a.tar")).expect("packs");
        assert_eq!(pack(&state, b"{}", &at("b.tar")).expect("packs"), first, "the same again");
        assert_ne!(pack(&state, b"{ }", &at("c.tar")).expect("packs"), first);
        assert_eq!(unpack(&at("a.tar"), &at("out")), Ok(b"{}".to_vec()));
        assert_eq!(std::fs::read(at("out")).expect("there"), vec![7; 100_000]);
        // Cut short, empty, and with an entry that leads elsewhere.
        let whole = std::fs::read(at("a.tar")).expect("there");
        std::fs::write(at("cut.tar"), &whole[..50_000]).expect("writes");
        std::fs::write(at("empty.tar"), b"").expect("writes");
        let mut tar = tar::Builder::new(File::create(at("other.tar")).expect("creates"));
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        tar.append_data(&mut header, "else", &b"x"[..]).expect("appends");
        tar.finish().expect("ends");
        for name in ["cut.tar", "empty.tar", "other.tar"] {
            assert!(unpack(&at(name), &at("out-2")).is_err(), "{name}");
        }
    }
}
