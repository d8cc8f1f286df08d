//! Kinds of numbers.

/// What a storage's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

/// The classes that pickles name, what they hold, how that is called, and how many bytes a number takes.
const TABLE: [(&str, Dtype, &str, u64); 10] = [
    ("torch.DoubleStorage", Dtype::F64, "F64", 8),
    ("torch.FloatStorage", Dtype::F32, "F32", 4),
    ("torch.HalfStorage", Dtype::F16, "F16", 2),
    ("torch.BFloat16Storage", Dtype::BF16, "BF16", 2),
    ("torch.LongStorage", Dtype::I64, "I64", 8),
    ("torch.IntStorage", Dtype::I32, "I32", 4),
    ("torch.ShortStorage", Dtype::I16, "I16", 2),
    ("torch.CharStorage", Dtype::I8, "I8", 1),
    ("torch.ByteStorage", Dtype::U8, "U8", 1),
    ("torch.BoolStorage", Dtype::Bool, "BOOL", 1),
];

impl Dtype {
    /// As safetensors files call it.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// Bytes of one number.
    pub fn size(self) -> u64 {
        TABLE[self as usize].3
    }

    /// What safetensors files call so.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.2 == name).map(|row| row.1)
    }

    /// What a class of PyTorch holds, such as `torch.FloatStorage`.
    pub(crate) fn of_storage(class: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.0 == class).map(|row| row.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_kinds() {
        for (n, row) in TABLE.iter().enumerate() {
            assert_eq!(row.1 as usize, n, "{}", row.2);
            assert_eq!(Dtype::of_storage(row.0), Some(row.1));
        }
        assert_eq!(Dtype::of_storage("torch.ComplexFloatStorage"), None);
    }
}
