//! The scan on NVIDIA GPUs: `kernel.cu`, compiled when it is first needed (`nvrtc`), and the order in which its kernels run.
//!
//! What is allocated for a moment, in floats: forward up to 2·N/64 of the input's size, where there are too few channels to fill
//! a GPU; backward 3·N/chunk and 2·N/32 of it, with chunks of 16 steps or N, whichever is more. Nothing of it is kept.

pub mod nvrtc;
mod usable;

use std::ptr;

use tch::{Kind, Tensor};

use super::{Gradients, Pass, PassGradients};

pub use usable::agrees;
pub(super) use usable::module;

/// The source of the kernels.
pub const SOURCE: &str = include_str!("kernel.cu");

/// More states than that do not fit into a thread's registers.
pub const MOST_STATES: i64 = 64;
/// Threads of a block.
const BLOCK: i64 = 128;
/// With so many channels in all, one thread per channel keeps a GPU busy.
const MANY: i64 = 1 << 15;
/// Steps of a chunk in forward, where there are fewer.
const FORWARD_CHUNK: i64 = 64;

/// Steps of a chunk in backward, which keeps its states at hand.
pub fn backward_chunk(states: i64) -> i64 {
    states.max(16)
}

/// What the kernels get; `Job` in `kernel.cu`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Job {
    x: *const f32,
    delta: *const f32,
    b: *const f32,
    c: *const f32,
    gate: *const f32,
    a: *const f32,
    d: *const f32,
    bias: *const f32,
    dy: *const f32,
    y: *mut f32,
    dx: *mut f32,
    ddelta: *mut f32,
    dgate: *mut f32,
    sums: *mut f32,
    states: *mut f32,
    carries: *mut f32,
    da: *mut f32,
    dd: *mut f32,
    dbias: *mut f32,
    db: *mut f32,
    dc: *mut f32,
    strides: [[i64; 2]; 5],
    scale: f32,
    batch: i32,
    length: i32,
    channels: i32,
    chunk: i32,
    chunks: i32,
    reverse: i32,
    first: i32,
    last: i32,
}

/// Something that runs the kernels: a GPU, or an emulation of one.
pub trait Launch {
    /// Runs the kernel of this name on a grid of blocks of `threads` threads, after all that were asked for before.
    ///
    /// # Errors
    /// In words: it could not be started.
    fn launch(&self, kernel: &str, grid: [u32; 3], threads: u32, job: &Job) -> anyhow::Result<()>;

    /// Threads whose sums the kernels add themselves.
    fn lanes(&self) -> i64;
}

/// (batch, length, channels) of a scan.
#[derive(Clone, Copy)]
struct Shape {
    batch: i64,
    length: i64,
    channels: i64,
    states: i64,
    chunk: i64,
}

impl Shape {
    fn of(pass: &Pass<'_>, chunk: i64) -> Self {
        let size = pass.x.size();
        Self { batch: size[0], length: size[1], channels: size[2], states: pass.b.size()[2], chunk: chunk.min(size[1]) }
    }

    fn chunks(self) -> i64 {
        (self.length + self.chunk - 1) / self.chunk
    }

    /// A block's row of threads per so many channels, for each chunk and batch entry.
    fn grid(self, chunks: i64) -> [u32; 3] {
        [((self.channels + BLOCK - 1) / BLOCK) as u32, chunks as u32, self.batch as u32]
    }

    fn job(self, pass: &Pass<'_>, gate: Option<&Tensor>, scale: f64, number: usize, passes: usize) -> Job {
        let strides = |t: &Tensor| [t.stride()[0], t.stride()[1]];
        Job {
            x: read(pass.x),
            delta: read(pass.delta),
            b: read(pass.b),
            c: read(pass.c),
            gate: gate.map_or(ptr::null(), read),
            a: read(pass.a),
            d: read(pass.d),
            bias: read(pass.bias),
            dy: ptr::null(),
            y: ptr::null_mut(),
            dx: ptr::null_mut(),
            ddelta: ptr::null_mut(),
            dgate: ptr::null_mut(),
            sums: ptr::null_mut(),
            states: ptr::null_mut(),
            carries: ptr::null_mut(),
            da: ptr::null_mut(),
            dd: ptr::null_mut(),
            dbias: ptr::null_mut(),
            db: ptr::null_mut(),
            dc: ptr::null_mut(),
            strides: [
                strides(pass.x),
                strides(pass.delta),
                strides(pass.b),
                strides(pass.c),
                gate.map_or([0, 0], strides),
            ],
            scale: scale as f32,
            batch: self.batch as i32,
            length: self.length as i32,
            channels: self.channels as i32,
            chunk: self.chunk as i32,
            chunks: self.chunks() as i32,
            reverse: pass.reverse.into(),
            first: (number == 0).into(),
            last: (number + 1 == passes).into(),
        }
    }
}

fn read(tensor: &Tensor) -> *const f32 {
    tensor.data_ptr().cast_const().cast()
}

fn write(tensor: &Tensor) -> *mut f32 {
    tensor.data_ptr().cast()
}

/// y, by kernels that `gpu` runs.
///
/// # Errors
/// A kernel could not be started.
pub fn forward(gpu: &dyn Launch, passes: &[Pass<'_>], gate: Option<&Tensor>, scale: f64) -> anyhow::Result<Tensor> {
    let first = &passes[0].x;
    let options = (Kind::Float, first.device());
    let y = Tensor::empty(first.size(), options);
    for (number, pass) in passes.iter().enumerate() {
        let size = first.size();
        let chunk = if size[0] * size[2] >= MANY { size[1] } else { FORWARD_CHUNK };
        let shape = Shape::of(pass, chunk);
        let mut job = shape.job(pass, gate, scale, number, passes.len());
        job.y = write(&y);
        // Kept until the kernels were asked for; what is freed then is used by nothing that runs before them.
        let between = (shape.chunks() > 1).then(|| Between::new(shape, options));
        if let Some(between) = &between {
            (job.sums, job.states) = (write(&between.sums), write(&between.states));
            gpu.launch("ends", shape.grid(shape.chunks()), BLOCK as u32, &job)?;
            gpu.launch("join", shape.grid(1), BLOCK as u32, &job)?;
        }
        gpu.launch("forward", shape.grid(shape.chunks()), BLOCK as u32, &job)?;
    }
    Ok(y)
}

/// What the chunks tell each other.
struct Between {
    sums: Tensor,
    states: Tensor,
}

impl Between {
    fn new(shape: Shape, options: (Kind, tch::Device)) -> Self {
        let Shape { batch, channels, states, .. } = shape;
        Self {
            sums: Tensor::empty([batch, shape.chunks(), channels], options),
            states: Tensor::empty([batch, shape.chunks(), states, channels], options),
        }
    }
}

/// The gradients, given those of y (contiguous), by kernels that `gpu` runs.
///
/// # Errors
/// A kernel could not be started.
pub(super) fn backward(
    gpu: &dyn Launch,
    passes: &[Pass<'_>],
    gate: Option<&Tensor>,
    scale: f64,
    dy: &Tensor,
) -> anyhow::Result<Gradients> {
    let options = (Kind::Float, dy.device());
    let empty = |shape: &[i64]| Tensor::empty(shape, options);
    let sum = |part: Tensor, dims: &[i64]| part.sum_dim_intlist(dims, false, None::<Kind>);
    let dgate = gate.map(|_| empty(&dy.size()));
    let mut found = Vec::new();
    for (number, pass) in passes.iter().enumerate() {
        let shape = Shape::of(pass, backward_chunk(pass.b.size()[2]));
        let Shape { batch, length, channels, states, .. } = shape;
        let (chunks, groups) = (shape.chunks(), (channels + gpu.lanes() - 1) / gpu.lanes());
        let between = Between::new(shape, options);
        let carries = empty(&[batch, chunks, states, channels]);
        let (x, delta) = (empty(&dy.size()), empty(&dy.size()));
        let a = empty(&[batch, chunks, states, channels]);
        let (d, bias) = (empty(&[batch, chunks, channels]), empty(&[batch, chunks, channels]));
        let (b, c) = (empty(&[groups, batch, length, states]), empty(&[groups, batch, length, states]));
        let job = Job {
            dy: read(dy),
            dx: write(&x),
            ddelta: write(&delta),
            dgate: dgate.as_ref().map_or(ptr::null_mut(), write),
            sums: write(&between.sums),
            states: write(&between.states),
            carries: write(&carries),
            da: write(&a),
            dd: write(&d),
            dbias: write(&bias),
            db: write(&b),
            dc: write(&c),
            ..shape.job(pass, gate, scale, number, passes.len())
        };
        for (kernel, chunks) in
            [("ends", chunks), ("join", 1), ("carries", chunks), ("join_back", 1), ("backward", chunks)]
        {
            gpu.launch(kernel, shape.grid(chunks), BLOCK as u32, &job)?;
        }
        found.push(PassGradients {
            x,
            delta,
            a: sum(a, &[0, 1]).transpose(0, 1).contiguous(),
            b: sum(b, &[0]),
            c: sum(c, &[0]),
            d: sum(d, &[0, 1]),
            bias: sum(bias, &[0, 1]),
        });
    }
    Ok(Gradients { passes: found, gate: dgate })
}
