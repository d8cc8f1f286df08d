//! One byte string per value, and its hash: what content identities are made of.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// The canonical JSON of a value: object keys sorted, no white space, numbers in their shortest form.
///
/// Two values of one type serialise to the same bytes exactly when their fields are equal, in whatever order the
/// fields are declared.
///
/// # Panics
/// When `value` cannot be JSON at all (a map with non-string keys, a non-finite number in a place that serde_json
/// refuses). The types hashed here are this crate's own, and tests cover them.
pub fn json<T: Serialize>(value: &T) -> String {
    // serde_json's Value keeps objects in a sorted map, so passing through it sorts the keys at every level.
    let value = serde_json::to_value(value).expect("our own types are JSON");
    value.to_string()
}

/// SHA-256 of some bytes as lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_level() {
        #[derive(Serialize)]
        struct Inner {
            z: u8,
            a: f64,
        }
        #[derive(Serialize)]
        struct Outer {
            second: Inner,
            first: Vec<Inner>,
        }
        let value = Outer { second: Inner { z: 1, a: 5e-4 }, first: vec![Inner { z: 2, a: 1.0 }] };
        assert_eq!(json(&value), r#"{"first":[{"a":1.0,"z":2}],"second":{"a":0.0005,"z":1}}"#);
    }

    #[test]
    fn sha256_of_the_standards_example() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
