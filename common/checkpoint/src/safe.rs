//! Safetensors files: the library's reader, and what it leaves to whoever computes with the tensors.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use crate::dtype::Dtype;
use crate::limits;

/// A tensor of a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    /// What its numbers are.
    pub dtype: Dtype,
    /// Its sizes, of which libtorch can count the numbers.
    pub shape: Vec<i64>,
    /// Its numbers, little-endian, the last dimension changing fastest.
    pub bytes: &'a [u8],
}

/// A safetensors file in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeFile<'a> {
    /// Its tensors by name.
    pub tensors: BTreeMap<String, View<'a>>,
    /// What its writer said besides.
    pub metadata: BTreeMap<String, String>,
}

impl<'a> SafeFile<'a> {
    /// Reads a whole file.
    ///
    /// # Errors
    /// In words, without the file's name: it is cut short, its header lies, it holds numbers of a kind that no model
    /// uses, or a tensor that libtorch could not hold.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let cut = |e| format!("{e} (the file has {} bytes; was it cut short?)", bytes.len());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(cut)?;
        let file = SafeTensors::deserialize(bytes).map_err(cut)?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let dtype = Dtype::of_name(&format!("{:?}", view.dtype()))
                .ok_or_else(|| format!("tensor {name:.80} holds {:?}, which no model here uses", view.dtype()))?;
            let shape = countable(view.shape()).ok_or_else(|| {
                let (most, shape) = (limits::DIMENSIONS, view.shape());
                let shape = &shape[..shape.len().min(most + 1)];
                format!("tensor {name:.80} has the shape {shape:?}; expected at most {most} sizes, whose product can be counted")
            })?;
            tensors.insert(name.to_owned(), View { dtype, shape, bytes: view.data() });
        }
        Ok(Self { tensors, metadata })
    }
}

/// A shape of which libtorch can count the numbers, sizes of 0 left out.
fn countable(shape: &[usize]) -> Option<Vec<i64>> {
    let signed: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).ok()).collect::<Option<_>>()?;
    // The largest numbers have 8 bytes.
    let counted = signed.iter().filter(|n| **n > 0).try_fold(8i64, |all, n| all.checked_mul(*n));
    counted.filter(|_| signed.len() <= limits::DIMENSIONS).map(|_| signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, numbers: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), numbers].concat()
    }

    fn one(dtype: &str, shape: &str, bytes: usize) -> Vec<u8> {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{bytes}]}}}}"#);
        file(&header, &vec![1; bytes])
    }

    #[test]
    fn tensors_and_what_is_said_of_them_are_read() {
        let header = r#"{"__metadata__":{"by":"x"},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}}"#;
        let bytes = file(header, &[1, 2, 3, 4]);
        let read = SafeFile::read(&bytes).expect("reads");
        assert_eq!(read.metadata["by"], "x");
        assert_eq!(read.tensors["b"], View { dtype: Dtype::BF16, shape: vec![2, 1], bytes: &[1, 2, 3, 4] });
        assert!(SafeFile::read(&bytes[..bytes.len() - 1]).expect_err("cut").contains("was it cut short?"));
        assert!(SafeFile::read(&one("F8_E4M3", "[2]", 2)).expect_err("no model").contains("a holds F8_E4M3"));
    }

    #[test]
    fn shapes_that_libtorch_cannot_count_are_refused() {
        let refused = |shape: &str| SafeFile::read(&one("F32", shape, 0)).expect_err(shape);
        assert!(refused("[0,9223372036854775808]").contains("has the shape [0, 9223372036854775808]"));
        assert!(refused("[0,9223372036854775807]").contains("can be counted"));
        assert!(refused(&format!("[0{}]", ",1".repeat(40))).contains("at most 32 sizes"));
        assert!(SafeFile::read(&one("F32", "[0,3]", 0)).is_ok() && SafeFile::read(&one("F32", "[]", 4)).is_ok());
    }
}
