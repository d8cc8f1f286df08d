//! The journal's records in a stream of bytes.

use std::io::Read;

use fleet_coordinator::store::journal::{Found, Scanner, record};

/// A segment behind its magic. Nothing is passed over, whole records are those that were written, and it does not matter
/// in which steps the bytes come.
pub fn journal(bytes: &[u8]) {
    let found = scan(bytes);
    let mut place = 0;
    for (offset, part) in &found {
        assert_eq!(*offset, place, "nothing is passed over");
        place += match part {
            Ok((sequence, payload)) => {
                let mut written = Vec::new();
                record::encode(&mut written, *sequence, payload);
                assert_eq!(bytes[*offset as usize..][..written.len()], written);
                written.len() as u64
            }
            Err(damaged) => *damaged,
        };
    }
    assert_eq!(place, bytes.len() as u64);
    let step = usize::from(bytes.last().copied().unwrap_or_default()) + 1;
    assert_eq!(scan(Steps(bytes, step)), found);
}

/// A record's number and payload, or how many bytes are none.
type Part = Result<(u64, Vec<u8>), u64>;

/// What stands where.
fn scan(from: impl Read) -> Vec<(u64, Part)> {
    let (mut scanner, mut found) = (Scanner::new(from, 0, 0), Vec::new());
    while let Some(next) = scanner.advance().expect("memory can be read") {
        found.push(match next {
            Found::Record { offset, sequence, payload, .. } => (offset, Ok((sequence, payload.to_vec()))),
            Found::Damage { offset, bytes, .. } => (offset, Err(bytes)),
        });
    }
    found
}

/// Gives out a few bytes at a time.
struct Steps<'a>(&'a [u8], usize);

impl Read for Steps<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = self.1.min(to.len());
        self.0.read(&mut to[..n])
    }
}
