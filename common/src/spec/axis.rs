//! One axis of the matrix, and values that may differ along one.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::unknown;

/// A non-empty list without repetitions. A single value may be written without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis<T>(Vec<T>);

impl<T> Axis<T> {
    /// An axis with one value.
    pub fn one(value: T) -> Self {
        Self(vec![value])
    }

    /// The values, at least one.
    pub fn values(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de> + PartialEq + fmt::Debug> Deserialize<'de> for Axis<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AxisVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + PartialEq + fmt::Debug> Visitor<'de> for AxisVisitor<T> {
            type Value = Axis<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a non-empty list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Axis<T>, A::Error> {
                // By their text: a list of seeds may be long, and comparing each with each would take minutes.
                let (mut values, mut seen) = (Vec::new(), HashSet::new());
                while let Some(value) = seq.next_element::<T>()? {
                    if !seen.insert(format!("{value:?}")) {
                        return Err(A::Error::custom(format!("{value:?} stands in this list twice")));
                    }
                    values.push(value);
                }
                if values.is_empty() {
                    return Err(A::Error::custom("an axis of the matrix needs at least one value; this list is empty"));
                }
                Ok(Axis(values))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Axis<T>, E> {
                T::deserialize(serde::de::value::StrDeserializer::new(text)).map(Axis::one)
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Axis<T>, E> {
                T::deserialize(serde::de::value::I64Deserializer::new(n)).map(Axis::one)
            }
        }
        deserializer.deserialize_any(AxisVisitor(PhantomData))
    }
}

/// One value for all, or one per name with an optional `default`: `1e-3` or `{ full = 1e-3, default = 5e-3 }`.
#[derive(Debug, Clone, PartialEq)]
pub struct PerName<T> {
    default: Option<T>,
    named: BTreeMap<String, T>,
}

impl<T: Copy> PerName<T> {
    /// The value for `name`: its own, else the default.
    pub fn get(&self, name: &str) -> Option<T> {
        self.named.get(name).copied().or(self.default)
    }

    /// Checks that every name is one of `valid`.
    ///
    /// # Errors
    /// The first name that is not, with the nearest valid one.
    pub(super) fn check_names(&self, what: &str, valid: &[&str]) -> Result<(), String> {
        match self.named.keys().find(|name| !valid.contains(&name.as_str())) {
            Some(name) => Err(unknown(what, name, &[valid, &["default"]].concat())),
            None => Ok(()),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PerName<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PerNameVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for PerNameVisitor<T> {
            type Value = PerName<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a table such as { full = 1e-3, default = 5e-3 }")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PerName<T>, A::Error> {
                let mut named = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    named.insert(name, value);
                }
                let default = named.remove("default");
                Ok(PerName { default, named })
            }
            fn visit_f64<E: serde::de::Error>(self, x: f64) -> Result<PerName<T>, E> {
                let default = T::deserialize(serde::de::value::F64Deserializer::new(x))?;
                Ok(PerName { default: Some(default), named: BTreeMap::new() })
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<PerName<T>, E> {
                let default = T::deserialize(serde::de::value::I64Deserializer::new(n))?;
                Ok(PerName { default: Some(default), named: BTreeMap::new() })
            }
        }
        deserializer.deserialize_any(PerNameVisitor(PhantomData))
    }
}
