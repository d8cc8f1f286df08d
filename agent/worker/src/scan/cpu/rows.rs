//! Tensors as the kernels walk through them: rows of channels, one per batch entry and time.

use std::marker::PhantomData;

use tch::{Kind, Tensor};

use super::lanes::{Lanes, Real, WIDTH};

/// Sixteens of channels that one task computes side by side: enough independent work to fill the processor's pipelines,
/// and few enough for states and factors to stay in its nearest memory.
pub(super) const DEPTH: usize = 4;
/// Channels of a task.
pub(super) const GROUP: usize = DEPTH * WIDTH;

/// The channels of a task.
pub(super) type Group<T> = [Lanes<T>; DEPTH];

/// A tensor (batch, length, channels) whose last dimension is contiguous, to be read or written by several threads.
///
/// Whoever writes through it makes sure that no two tasks write the same channels of the same row, and that nobody
/// reads them meanwhile.
pub(super) struct Rows<'a, T> {
    start: *mut T,
    strides: [usize; 2],
    shape: [usize; 3],
    of: PhantomData<&'a Tensor>,
}

// SAFETY: it is a pointer into a tensor that outlives it; see the type's promise.
unsafe impl<T: Real> Send for Rows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Real> Sync for Rows<'_, T> {}

impl<'a, T: Real> Rows<'a, T> {
    /// # Panics
    /// For a tensor that is not (batch, length, channels) on the CPU with a contiguous last dimension, of the kind of
    /// `T`.
    pub(super) fn new(tensor: &'a Tensor) -> Self {
        let (size, stride) = (tensor.size(), tensor.stride());
        assert!(size.len() == 3 && (stride[2] == 1 || size[2] == 1), "rows of {size:?} with strides {stride:?}");
        assert_eq!(tensor.kind(), if size_of::<T>() == 4 { Kind::Float } else { Kind::Double });
        assert_eq!(tensor.device(), tch::Device::Cpu);
        Self {
            start: tensor.data_ptr().cast(),
            strides: [stride[0] as usize, stride[1] as usize],
            shape: [size[0] as usize, size[1] as usize, size[2] as usize],
            of: PhantomData,
        }
    }

    pub(super) fn batch(&self) -> usize {
        self.shape[0]
    }

    pub(super) fn length(&self) -> usize {
        self.shape[1]
    }

    pub(super) fn width(&self) -> usize {
        self.shape[2]
    }

    #[inline(always)]
    fn at(&self, b: usize, t: usize, first: usize) -> (*mut T, usize) {
        debug_assert!(b < self.shape[0] && t < self.shape[1] && first <= self.shape[2]);
        // SAFETY: within the tensor, by the strides that libtorch tells.
        let start = unsafe { self.start.add(b * self.strides[0] + t * self.strides[1] + first) };
        (start, self.shape[2] - first)
    }

    /// The row of batch entry `b` at time `t`.
    #[inline(always)]
    pub(super) fn row(&self, b: usize, t: usize) -> &[T] {
        let (start, n) = self.at(b, t, 0);
        // SAFETY: `n` numbers are there, and nobody writes them meanwhile (the type's promise).
        unsafe { std::slice::from_raw_parts(start, n) }
    }

    /// The same to write to, for a row that belongs to one task.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the type's promise keeps writers apart")]
    pub(super) fn row_mut(&self, b: usize, t: usize) -> &mut [T] {
        let (start, n) = self.at(b, t, 0);
        // SAFETY: `n` numbers are there, and this task is alone with them (the type's promise).
        unsafe { std::slice::from_raw_parts_mut(start, n) }
    }

    /// The channels from `first` on.
    #[inline(always)]
    pub(super) fn load(&self, b: usize, t: usize, first: usize) -> Group<T> {
        load(&self.row(b, t)[first..])
    }

    /// Writes the channels from `first` on.
    #[inline(always)]
    pub(super) fn store(&self, b: usize, t: usize, first: usize, values: &Group<T>) {
        let (start, n) = self.at(b, t, first);
        // SAFETY: `n` numbers are there, and this task is alone with those of its group (the type's promise).
        store(values, unsafe { std::slice::from_raw_parts_mut(start, n.min(GROUP)) });
    }
}

/// The first channels of `from`; zeros where there are fewer.
#[inline(always)]
pub(super) fn load<T: Real>(from: &[T]) -> Group<T> {
    if let Some(whole) = from.first_chunk::<GROUP>() {
        return std::array::from_fn(|k| Lanes::load(&whole[k * WIDTH..][..WIDTH]));
    }
    std::array::from_fn(|k| Lanes::load(&from[from.len().min(k * WIDTH)..]))
}

/// Into the first channels of `to`, or into as many as there are.
#[inline(always)]
pub(super) fn store<T: Real>(values: &Group<T>, to: &mut [T]) {
    if let Some(whole) = to.first_chunk_mut::<GROUP>() {
        for k in 0..DEPTH {
            values[k].store(&mut whole[k * WIDTH..][..WIDTH]);
        }
        return;
    }
    let n = to.len();
    for k in 0..DEPTH {
        values[k].store(&mut to[n.min(k * WIDTH)..n.min((k + 1) * WIDTH)]);
    }
}

/// Like [`load`], of a contiguous matrix (channels, `columns`) that is wanted by column: one group per column.
pub(super) fn load_columns<T: Real>(matrix: &[T], columns: usize, first: usize) -> Vec<Group<T>> {
    let rows: Vec<&[T]> = matrix.chunks_exact(columns).skip(first).take(GROUP).collect();
    let column = |n: usize| rows.iter().map(|row| row[n]).collect::<Vec<T>>();
    (0..columns).map(|n| load(&column(n))).collect()
}

/// The numbers of a contiguous tensor on the CPU.
///
/// # Panics
/// For one that is not, or of another kind than `T`.
pub(super) fn slice<T: Real>(tensor: &Tensor) -> &[T] {
    assert!(tensor.is_contiguous() && tensor.device() == tch::Device::Cpu);
    assert_eq!(tensor.kind(), if size_of::<T>() == 4 { Kind::Float } else { Kind::Double });
    // SAFETY: so many numbers are there, as long as the tensor lives.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast_const().cast(), tensor.numel()) }
}
