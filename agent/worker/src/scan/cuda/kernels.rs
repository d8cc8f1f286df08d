//! The launches of a scan: which kernels, over which grids, with which scratch memory.
//!
//! Scratch memory serves all groups of a pass and is given back before the next. In f32, with B, L, D for batch, length
//! and channels, and C for the chunks (1, or up to L/32):
//!
//! - forward: nothing, or where sequences are cut 17·B·C·D for the states between chunks;
//! - backward: B·L·D for the states at the marks, B·L·D/2 for the sums over warps, 10·B·C·D for those over chunks, and
//!   where sequences are cut 17·B·C·D between chunks.
//!
//! Fewer states than these widths' 16 and 8 take less; others than 1, 2, 4, 8 or multiples of 16 have A, B and
//! C copied, with zeros behind.

use std::ffi::c_void;

use anyhow::{anyhow, ensure};
use tch::{Device, Kind, Tensor};

use super::arguments::{MARK, Rows, Scan, THREADS, Widths, at, parts, whole};
use super::driver::{Driver, Kernel};
use super::inputs::{Inputs, Sizes, columns};
use super::nvrtc::Nvrtc;
use crate::scan::{Gradients, Pass, PassGradients};
use crate::torch::cuda;

/// Channels of a warp.
const WARP: i64 = 32;

/// The kernels for one device and one pair of widths, ready to be launched.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    device: Device,
    widths: Widths,
    processors: i64,
    chunk: Option<i64>,
    forward_states: Kernel,
    backward_states: Kernel,
    backward_grads: Kernel,
    combine: Kernel,
    outputs: Kernel,
    gradients: Kernel,
}

impl Kernels {
    /// Compiles the kernels for a scan of so many states and loads them on a device. Nothing is kept: ask
    /// [`super::kernels`], which also checks them.
    ///
    /// # Errors
    /// No compiler, no driver, or one of them refuses; in words.
    pub fn load(device: Device, states: i64) -> Result<Self, String> {
        // The CPU is for stand-ins, whose first board has the host's memory.
        let ordinal = if let Device::Cuda(ordinal) = device { ordinal } else { 0 };
        let widths = Widths::of(states);
        let driver = Driver::open(ordinal)?;
        let nvrtc = Nvrtc::open()?;
        let target = nvrtc.target(driver.capability)?;
        let compiled = nvrtc.compile(&target, widths)?;
        tracing::debug!("the scan's kernels for {target}, {} states at a time:\n{}", widths.forward, compiled.log);
        let module = driver.load(&compiled.image)?;
        Ok(Self {
            device,
            widths,
            processors: driver.processors.into(),
            chunk: None,
            forward_states: module.kernel(c"forward_states")?,
            backward_states: module.kernel(c"backward_states")?,
            backward_grads: module.kernel(c"backward_grads")?,
            combine: module.kernel(c"combine")?,
            outputs: module.kernel(c"outputs")?,
            gradients: module.kernel(c"gradients")?,
        })
    }

    /// The same, but cutting sequences into chunks of so many steps, rounded up to a multiple of [`MARK`], instead of
    /// where the device needs it.
    #[must_use]
    pub fn with_chunks_of(self, steps: i64) -> Self {
        Self { chunk: Some(whole(steps.max(1), MARK)), ..self }
    }

    /// The scan's result, (batch, length, channels), contiguous and without a graph. f32 tensors of one device.
    ///
    /// # Errors
    /// Shapes that do not fit, or the driver refuses; in words.
    ///
    /// # Panics
    /// As tch's operators: when libtorch has no memory for the result or the scratch.
    pub fn forward(&self, passes: &[Pass], gate: Option<&Tensor>, scale: f64) -> anyhow::Result<Tensor> {
        let sizes = Sizes::of(passes, gate)?;
        if sizes.empty() {
            return Ok(passes[0].x.detach().zeros_like());
        }
        let run = Run::new(self, sizes, passes[0].x)?;
        let y = run.scratch(&sizes.shape());
        let gate = gate.map(columns);
        for (i, pass) in passes.iter().enumerate() {
            let inputs = Inputs::of(pass, self.widths.forward);
            let across = Across::new(&run, self.widths.forward, false);
            for first in (0..inputs.states).step_by(self.widths.forward as usize) {
                let last = i + 1 == passes.len() && first + self.widths.forward == inputs.states;
                let mut scan = inputs.scan(first, &sizes, run.chunk, gate.as_ref(), scale);
                scan.y = at(&y, 0);
                scan.add = (i > 0 || first > 0).into();
                scan.finish = last.into();
                if let Some(across) = &across {
                    across.states(&run, &self.forward_states, &mut scan)?;
                }
                run.launch(&self.outputs, run.chunks, &scan)?;
            }
        }
        Ok(y)
    }

    /// The derivatives of a loss by all inputs, given that by the result, `grad`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub fn backward(
        &self,
        passes: &[Pass],
        gate: Option<&Tensor>,
        scale: f64,
        grad: &Tensor,
    ) -> anyhow::Result<Gradients> {
        let sizes = Sizes::of(passes, gate)?;
        let shape = sizes.shape();
        ensure!(grad.size() == shape, "the gradient of a scan is {:?} instead of {shape:?}", grad.size());
        ensure!(grad.kind() == Kind::Float, "the gradient of a scan is {:?} instead of f32", grad.kind());
        if sizes.empty() {
            return Ok(nothing(passes, gate));
        }
        let run = Run::new(self, sizes, passes[0].x)?;
        let (gate, grad) = (gate.map(columns), columns(grad));
        let dgate = gate.as_ref().map(|_| run.scratch(&shape));
        let mut results = Vec::with_capacity(passes.len());
        for (i, pass) in passes.iter().enumerate() {
            let edge = Edge { gate: gate.as_ref(), grad: &grad, dgate: dgate.as_ref(), first: i == 0 };
            results.push(self.pass_backward(&run, pass, scale, &edge)?);
        }
        Ok(Gradients { passes: results, gate: dgate })
    }

    fn pass_backward(&self, run: &Run, pass: &Pass, scale: f64, edge: &Edge) -> anyhow::Result<PassGradients> {
        let (width, sizes) = (self.widths.backward, &run.sizes);
        let Sizes { batch, length, channels, states } = *sizes;
        let inputs = Inputs::of(pass, width);
        let across = Across::new(run, width, true);
        let marks = run.scratch(&[batch, parts(length, MARK), width, channels]);
        let sums = run.scratch(&[batch, length, parts(channels, WARP), 2 * width]);
        let totals = run.scratch(&[batch * run.chunks, width + 2, channels]);
        let (x, delta) = (run.scratch(&sizes.shape()), run.scratch(&sizes.shape()));
        let (mut a, mut b, mut c, mut d, mut bias) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for first in (0..inputs.states).step_by(width as usize) {
            let mut scan = inputs.scan(first, sizes, run.chunk, edge.gate, scale);
            scan.grad = Rows::of(edge.grad, 0);
            (scan.dx, scan.ddelta) = (at(&x, 0), at(&delta, 0));
            scan.dgate = edge.dgate.map_or(std::ptr::null_mut(), |dgate| at(dgate, 0));
            (scan.marks, scan.sums, scan.totals) = (at(&marks, 0), at(&sums, 0), at(&totals, 0));
            scan.add = (first > 0).into();
            scan.add_gate = (first > 0 || !edge.first).into();
            if let Some(across) = &across {
                across.states(run, &self.backward_states, &mut scan)?;
                across.grads(run, &self.backward_grads, &mut scan)?;
            }
            run.launch(&self.gradients, run.chunks, &scan)?;
            let by_bc = sums.sum_dim_intlist([2i64].as_slice(), false, Kind::Float);
            b.push(by_bc.narrow(2, 0, width));
            c.push(by_bc.narrow(2, width, width));
            let totals = totals.sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
            a.push(totals.narrow(0, 0, width));
            d.push(totals.get(width));
            bias.push(totals.get(width + 1));
        }
        Ok(PassGradients {
            x,
            delta,
            a: Tensor::cat(&a, 0).narrow(0, 0, states).transpose(0, 1).contiguous(),
            b: Tensor::cat(&b, 2).narrow(2, 0, states),
            c: Tensor::cat(&c, 2).narrow(2, 0, states),
            // Every group has summed all of it.
            d: d.swap_remove(0),
            bias: Tensor::stack(&bias, 0).sum_dim_intlist([0i64].as_slice(), false, Kind::Float),
        })
    }
}

/// What the passes of one backward share.
struct Edge<'a> {
    gate: Option<&'a Tensor>,
    grad: &'a Tensor,
    dgate: Option<&'a Tensor>,
    /// Whether this is the first pass, which writes the gate's gradient; others add to it.
    first: bool,
}

/// The gradients of a scan over nothing.
fn nothing(passes: &[Pass], gate: Option<&Tensor>) -> Gradients {
    let zeros = |tensor: &Tensor| tensor.detach().zeros_like();
    let of = |pass: &Pass| PassGradients {
        x: zeros(pass.x),
        delta: zeros(pass.delta),
        a: zeros(pass.a),
        b: zeros(pass.b),
        c: zeros(pass.c),
        d: zeros(pass.d),
        bias: zeros(pass.bias),
    };
    Gradients { passes: passes.iter().map(of).collect(), gate: gate.map(zeros) }
}

/// One scan's sizes and place.
struct Run {
    sizes: Sizes,
    chunk: i64,
    chunks: i64,
    combine: Kernel,
    stream: *mut c_void,
    device: Device,
}

impl Run {
    fn new(kernels: &Kernels, sizes: Sizes, like: &Tensor) -> anyhow::Result<Self> {
        let chunk = kernels.chunk.unwrap_or_else(|| sizes.chunk(kernels.processors));
        let chunks = parts(sizes.length, chunk);
        ensure!(chunks <= i64::from(u16::MAX), "a scan in {chunks} chunks");
        let Kernels { device, combine, .. } = *kernels;
        ensure!(like.device() == device, "a scan on {:?} with the kernels of {device:?}", like.device());
        Ok(Self { sizes, chunk, chunks, combine, stream: cuda::stream(device)?, device })
    }

    /// Memory with anything in it.
    fn scratch(&self, shape: &[i64]) -> Tensor {
        Tensor::empty(shape, (Kind::Float, self.device))
    }

    /// Queues a kernel over (channels, `rows`, batch).
    fn launch(&self, kernel: &Kernel, rows: i64, scan: &Scan) -> anyhow::Result<()> {
        let grid = [self.sizes.blocks() as u32, rows as u32, self.sizes.batch as u32];
        // SAFETY: the tensors behind `scan` have the shapes of kernel.cu, are on the stream's device, and go back to
        // libtorch's allocator, which gives them to work that comes later on this stream.
        unsafe { kernel.launch(grid, THREADS as u32, self.stream, scan) }.map_err(|why| anyhow!(why))
    }
}

/// The scratch of the way across chunks.
struct Across {
    width: i64,
    carry: Tensor,
    carry_back: Option<Tensor>,
    spans: Tensor,
}

impl Across {
    /// `None` where there is one chunk only. `back` is whether there is a way against time, too.
    fn new(run: &Run, width: i64, back: bool) -> Option<Self> {
        let Sizes { batch, channels, .. } = run.sizes;
        let carry = || run.scratch(&[batch, run.chunks, width, channels]);
        let spans = || run.scratch(&[batch, run.chunks, channels]);
        (run.chunks > 1).then(|| Self { width, carry: carry(), carry_back: back.then(carry), spans: spans() })
    }

    /// The state that each chunk starts with.
    fn states(&self, run: &Run, kernel: &Kernel, scan: &mut Scan) -> anyhow::Result<()> {
        (scan.carry, scan.spans) = (at(&self.carry, 0), at(&self.spans, 0));
        run.launch(kernel, run.chunks, scan)?;
        run.launch(&run.combine, self.width, scan)
    }

    /// The derivative by the state that each chunk ends with. [`Self::states`] has left the spans.
    fn grads(&self, run: &Run, kernel: &Kernel, scan: &mut Scan) -> anyhow::Result<()> {
        scan.carry_back = self.carry_back.as_ref().map_or(std::ptr::null_mut(), |carry| at(carry, 0));
        run.launch(kernel, run.chunks, scan)?;
        run.launch(&run.combine, self.width, &Scan { back: 1, ..*scan })
    }
}
