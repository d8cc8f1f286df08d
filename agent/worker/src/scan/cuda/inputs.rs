//! The tensors of a scan as the kernels want them: checked, columns contiguous, states padded to whole groups.

use anyhow::ensure;
use tch::{Kind, Tensor};

use super::arguments::{MARK, Rows, Scan, THREADS, at, parts, whole};
use crate::scan::Pass;

/// Chunks are no shorter than this many steps: each costs a state in memory and the scan over it twice.
const SHORTEST: i64 = 32;
/// With so many threads for each multiprocessor, its work hides the memory's latency.
const THREADS_PER_PROCESSOR: i64 = 512;

/// The sizes of a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub batch: i64,
    pub length: i64,
    pub channels: i64,
    pub states: i64,
}

impl Sizes {
    /// Those that all tensors agree on.
    pub(super) fn of(passes: &[Pass], gate: Option<&Tensor>) -> anyhow::Result<Self> {
        ensure!(!passes.is_empty(), "a scan of no passes");
        ensure!(passes[0].x.dim() == 3, "a scan's input is (batch, length, channels), not {:?}", passes[0].x.size());
        let (batch, length, channels) = passes[0].x.size3()?;
        let states = passes[0].a.size().last().copied().unwrap_or(0);
        let device = passes[0].x.device();
        let is = |name: &str, tensor: &Tensor, size: &[i64]| {
            ensure!(tensor.size() == size, "a scan's {name} is {:?} instead of {size:?}", tensor.size());
            ensure!(tensor.kind() == Kind::Float, "a scan's {name} is {:?} instead of f32", tensor.kind());
            ensure!(tensor.device() == device, "a scan's {name} is on another device than its input");
            Ok(())
        };
        for pass in passes {
            is("input", pass.x, &[batch, length, channels])?;
            is("delta", pass.delta, &[batch, length, channels])?;
            is("A", pass.a, &[channels, states])?;
            is("B", pass.b, &[batch, length, states])?;
            is("C", pass.c, &[batch, length, states])?;
            is("D", pass.d, &[channels])?;
            is("bias", pass.bias, &[channels])?;
        }
        if let Some(gate) = gate {
            is("gate", gate, &[batch, length, channels])?;
        }
        ensure!((1..=64).contains(&states), "a scan with {states} states");
        let most = i64::from(u16::MAX);
        ensure!(batch <= most && length < 1 << 30 && channels < 1 << 30, "a scan of {batch} x {length} x {channels}");
        Ok(Self { batch, length, channels, states })
    }

    /// Whether there is nothing to compute.
    pub(super) fn empty(&self) -> bool {
        self.batch * self.length * self.channels == 0
    }

    /// The shape of inputs and results.
    pub(super) fn shape(&self) -> [i64; 3] {
        [self.batch, self.length, self.channels]
    }

    /// Blocks of threads that the channels fill.
    pub(super) fn blocks(&self) -> i64 {
        parts(self.channels, THREADS)
    }

    /// Steps of a chunk, a multiple of [`MARK`], that give a device of so many multiprocessors enough threads.
    pub(super) fn chunk(&self, processors: i64) -> i64 {
        let threads = self.batch * self.blocks() * THREADS;
        let chunks =
            (processors * THREADS_PER_PROCESSOR / threads.max(1)).clamp(1, parts(self.length, SHORTEST).max(1));
        whole(parts(self.length, chunks), MARK)
    }
}

/// A pass's tensors.
pub(super) struct Inputs {
    x: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    bias: Tensor,
    reverse: bool,
    /// States, counting those that are there to fill the last group: they decay from nothing and are read by nothing.
    pub states: i64,
}

impl Inputs {
    /// A pass in groups of `width` states.
    pub(super) fn of(pass: &Pass, width: i64) -> Self {
        let states = pass.a.size()[1];
        let padded = whole(states, width);
        let pad = |tensor: &Tensor| match padded - states {
            0 => columns(tensor),
            more => tensor.detach().constant_pad_nd([0, more]),
        };
        Self {
            x: columns(pass.x),
            delta: columns(pass.delta),
            a: pad(pass.a).contiguous(),
            b: pad(pass.b),
            c: pad(pass.c),
            d: pass.d.detach().contiguous(),
            bias: pass.bias.detach().contiguous(),
            reverse: pass.reverse,
            states: padded,
        }
    }

    /// The launch of the group of states that begins with `first`; D goes with the first group.
    pub(super) fn scan(&self, first: i64, sizes: &Sizes, chunk: i64, gate: Option<&Tensor>, scale: f64) -> Scan {
        let none = std::ptr::null_mut();
        Scan {
            x: Rows::of(&self.x, 0),
            delta: Rows::of(&self.delta, 0),
            b: Rows::of(&self.b, first),
            c: Rows::of(&self.c, first),
            gate: gate.map_or(Rows::NONE, |gate| Rows::of(gate, 0)),
            grad: Rows::NONE,
            a: at(&self.a, first),
            d: if first == 0 { at(&self.d, 0) } else { none },
            bias: at(&self.bias, 0),
            y: none,
            dx: none,
            ddelta: none,
            dgate: none,
            carry: none,
            carry_back: none,
            spans: none,
            marks: none,
            sums: none,
            totals: none,
            scale: scale as f32,
            a_row: self.states as i32,
            length: sizes.length as i32,
            channels: sizes.channels as i32,
            chunk: chunk as i32,
            chunks: parts(sizes.length, chunk) as i32,
            reverse: self.reverse.into(),
            add: 0,
            add_gate: 0,
            finish: 0,
            back: 0,
        }
    }
}

/// The tensor, without its graph, with its last dimension contiguous.
pub(super) fn columns(tensor: &Tensor) -> Tensor {
    let tensor = tensor.detach();
    let last = tensor.dim() - 1;
    let stride = tensor.stride();
    let fits = tensor.size()[last] == 1 || stride[last] == 1;
    if fits && i32::try_from(stride[last - 1]).is_ok() { tensor } else { tensor.contiguous() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_cut_only_where_channels_are_too_few() {
        let chunk =
            |batch, length, channels, processors| Sizes { batch, length, channels, states: 16 }.chunk(processors);
        assert_eq!(chunk(64, 197, 384, 20), 200, "24,576 threads fill 20 multiprocessors");
        assert_eq!(chunk(64, 197, 384, 132), 104, "but 132 only twice");
        assert_eq!(chunk(1, 197, 384, 132), 32);
        assert_eq!(chunk(1, 5, 1, 132), 8);
    }
}
