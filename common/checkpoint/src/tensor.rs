//! A tensor is a view of a storage: where it begins, its shape, and how far apart its numbers are.

use crate::dtype::Dtype;
use crate::limits;

/// A run of numbers that tensors are views of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Names its bytes within the file.
    pub(crate) key: Box<str>,
    pub(crate) dtype: Dtype,
    /// How many numbers it has, in the pickle's words.
    pub(crate) numel: u64,
}

/// A tensor of a checkpoint: everything but its numbers, which [`Checkpoint::bytes`](crate::Checkpoint::bytes) reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub(crate) storage: u32,
    dtype: Dtype,
    /// In numbers, as are the strides.
    pub(crate) offset: u64,
    shape: Box<[u64]>,
    pub(crate) strides: Box<[u64]>,
    numel: u64,
    /// From its first number to behind its last one.
    pub(crate) span: u64,
}

impl Tensor {
    /// A view of the storage numbered `number`, from number `base` of it on, where `limit` numbers are the view's to
    /// use.
    ///
    /// # Errors
    /// It is not within the storage; in words.
    pub(crate) fn view(
        (number, storage): (u32, &Storage),
        (base, limit): (u64, u64),
        offset: i128,
        shape: &[i128],
        strides: &[i128],
    ) -> Result<Self, String> {
        let text = || format!("a tensor of shape {shape:?}, strides {strides:?} and offset {offset}");
        let lies = |what: &str| format!("{} {what}; the file is damaged, or made to deceive", text());
        if shape.len() != strides.len() || shape.len() > limits::DIMENSIONS {
            return Err(format!(
                "a tensor has {} sizes and {} strides; expected as many, at most {}",
                shape.len(),
                strides.len(),
                limits::DIMENSIONS
            ));
        }
        let unsigned =
            |numbers: &[i128]| numbers.iter().map(|&n| u64::try_from(n).ok()).collect::<Option<Box<[u64]>>>();
        let (Some(sizes), Some(mut steps), Ok(offset)) = (unsigned(shape), unsigned(strides), u64::try_from(offset))
        else {
            return Err(lies("has numbers below 0 or above 2^64"));
        };
        // A step that is never taken may be any number.
        steps.iter_mut().zip(&sizes).filter(|(_, size)| **size == 1).for_each(|(step, _)| *step = 0);
        let dtype = storage.dtype;
        let empty = sizes.contains(&0);
        // Signed and with sizes of 0 left out, so that libtorch can count them too.
        let counted = sizes.iter().filter(|size| **size > 0).try_fold(1u64, |n, &size| n.checked_mul(size));
        let counted = counted.filter(|n| n.checked_mul(dtype.size()).is_some_and(|bytes| i64::try_from(bytes).is_ok()));
        // An empty tensor may lie anywhere: it reads nothing.
        let span = sizes.iter().zip(&steps).try_fold(1u64, |end, (&size, &step)| {
            if empty { Some(0) } else { (size - 1).checked_mul(step)?.checked_add(end) }
        });
        let (Some(counted), Some(span)) = (counted, span) else {
            return Err(lies("has more numbers than can be counted"));
        };
        let numel = if empty { 0 } else { counted };
        if !empty && !within(offset, span, limit) {
            let problem = format!("reaches beyond its storage {:?}, of which it may use {limit} numbers", storage.key);
            return Err(lies(&problem));
        }
        Ok(Self {
            storage: number,
            dtype,
            offset: base + if empty { 0 } else { offset },
            shape: sizes,
            strides: steps,
            numel,
            span,
        })
    }

    /// What its numbers are.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its sizes; none for a single number.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// How many numbers it has.
    pub fn numel(&self) -> u64 {
        self.numel
    }

    /// How many bytes they take, one after the other.
    pub fn len(&self) -> u64 {
        self.numel * self.dtype.size()
    }

    /// Whether it has no numbers.
    pub fn is_empty(&self) -> bool {
        self.numel == 0
    }

    /// Whether its numbers lie one after the other already.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.is_empty()
            || self.shape.iter().zip(&self.strides).rev().all(|(&size, &step)| {
                let fits = size == 1 || step == expected;
                expected *= size;
                fits
            })
    }

    /// Its numbers one after the other, the last dimension changing fastest, out of the bytes of its span.
    pub(crate) fn gather(&self, span: &[u8]) -> Vec<u8> {
        let width = self.dtype.size() as usize;
        let mut out = Vec::with_capacity(self.len() as usize);
        let mut index = vec![0u64; self.shape.len()];
        let mut at = 0usize;
        for _ in 0..self.numel {
            out.extend_from_slice(&span[at * width..(at + 1) * width]);
            for (i, (&size, &step)) in index.iter_mut().zip(self.shape.iter().zip(&self.strides)).rev() {
                *i += 1;
                at += step as usize;
                if *i < size {
                    break;
                }
                at -= (*i * step) as usize;
                *i = 0;
            }
        }
        out
    }
}

fn within(offset: u64, len: u64, limit: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= limit)
}
