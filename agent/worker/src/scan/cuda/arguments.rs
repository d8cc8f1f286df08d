//! What the kernels take: `Scan` of `kernel.cu`, field by field, and the numbers that both halves must know.

use tch::Tensor;

/// Threads of a block; each owns a channel. Small, so that few channels leave few threads idle.
pub(super) const THREADS: i64 = 64;
/// Steps that backward has the states of in registers. With 8 states each, and what else there is, a thread takes
/// 127 to 167 of its 255, depending on the board; with 8 steps it would take up to 235.
pub(super) const SEGMENT: i64 = 4;
/// After how many steps backward writes the states down: with 8 states, as many numbers as the input has.
pub(super) const MARK: i64 = 8;

/// How many states a thread owns at a time; the kernels are compiled for these. More states are more launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// In forward: 1, 2, 4, 8 or 16.
    pub forward: i64,
    /// In backward, which keeps more of each: 1, 2, 4 or 8.
    pub backward: i64,
}

impl Widths {
    /// For a scan with this many states.
    pub fn of(states: i64) -> Self {
        let wide = states.clamp(1, 16).unsigned_abs().next_power_of_two() as i64;
        Self { forward: wide, backward: wide.min(8) }
    }
}

/// A (batch, length, columns) tensor whose columns are contiguous.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    data: *const f32,
    batch: i64,
    row: i32,
}

impl Rows {
    pub(super) const NONE: Self = Self { data: std::ptr::null(), batch: 0, row: 0 };

    /// The tensor from a column on.
    pub(super) fn of(tensor: &Tensor, column: i64) -> Self {
        let stride = tensor.stride();
        Self { data: at(tensor, column), batch: stride[0], row: stride[1] as i32 }
    }
}

/// A tensor's memory, from a place in it on.
pub(super) fn at(tensor: &Tensor, place: i64) -> *mut f32 {
    tensor.data_ptr().cast::<f32>().wrapping_offset(place as isize)
}

/// One launch; `kernel.cu` says what each field is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    pub x: Rows,
    pub delta: Rows,
    pub b: Rows,
    pub c: Rows,
    pub gate: Rows,
    pub grad: Rows,
    pub a: *const f32,
    pub d: *const f32,
    pub bias: *const f32,
    pub y: *mut f32,
    pub dx: *mut f32,
    pub ddelta: *mut f32,
    pub dgate: *mut f32,
    pub carry: *mut f32,
    pub carry_back: *mut f32,
    pub spans: *mut f32,
    pub marks: *mut f32,
    pub sums: *mut f32,
    pub totals: *mut f32,
    pub scale: f32,
    pub a_row: i32,
    pub length: i32,
    pub channels: i32,
    pub chunk: i32,
    pub chunks: i32,
    pub reverse: i32,
    pub add: i32,
    pub add_gate: i32,
    pub finish: i32,
    pub back: i32,
}

/// How many parts of at most this size something is cut into.
pub(super) fn parts(length: i64, part: i64) -> i64 {
    (length + part - 1) / part
}

/// The length, rounded up to whole parts.
pub(super) fn whole(length: i64, part: i64) -> i64 {
    parts(length, part) * part
}
