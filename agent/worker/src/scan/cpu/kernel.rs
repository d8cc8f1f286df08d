//! The scan of one group of channels of one batch entry: forward, and backward.
//!
//! Both walk through time once per pass with the states of all channels at hand. Backward needs them in reverse: they
//! are computed again from the start to the end of a segment of time, kept for that segment, and used from its end to
//! its start.

use super::lanes::{Lanes, Real};
use super::rows::{DEPTH, GROUP, Group, Rows, load, load_columns, store};

/// Bytes of a segment's states. They are written once and read once, from the second-level cache or the third. The
/// first pass over a sequence of several segments only finds the states between them; Vim's 197 tokens are one segment.
const SEGMENT_BYTES: usize = 1 << 20;

/// Steps of a segment.
fn segment_steps(states: usize) -> usize {
    (SEGMENT_BYTES / (states.max(1) * size_of::<Group<f32>>())).max(1)
}

/// A pass of the scan; what is not (batch, length, …) is contiguous.
pub(super) struct PassInputs<'a, T> {
    pub(super) x: Rows<'a, T>,
    pub(super) delta: Rows<'a, T>,
    pub(super) b: Rows<'a, T>,
    pub(super) c: Rows<'a, T>,
    /// (channels, states).
    pub(super) a: &'a [T],
    pub(super) d: &'a [T],
    pub(super) bias: &'a [T],
    pub(super) reverse: bool,
}

/// All that forward reads.
pub(super) struct Inputs<'a, T> {
    pub(super) passes: Vec<PassInputs<'a, T>>,
    pub(super) gate: Option<Rows<'a, T>>,
    pub(super) scale: T,
}

impl<T: Real> PassInputs<'_, T> {
    fn states(&self) -> usize {
        self.b.width()
    }

    /// Where in time step `step` is.
    #[inline(always)]
    fn time(&self, step: usize) -> usize {
        if self.reverse { self.x.length() - 1 - step } else { step }
    }
}

/// What a pass has per channel.
struct Constants<T> {
    /// a·log₂e, by state.
    a: Vec<Group<T>>,
    d: Group<T>,
    bias: Group<T>,
}

impl<T: Real> Constants<T> {
    #[inline(always)]
    fn of(pass: &PassInputs<'_, T>, first: usize) -> Self {
        let mut a = load_columns(pass.a, pass.states(), first);
        for lanes in a.iter_mut().flatten() {
            *lanes = *lanes * Lanes::constant(std::f64::consts::LOG2_E);
        }
        Self { a, d: load(&pass.d[first..]), bias: load(&pass.bias[first..]) }
    }
}

/// The step width softplus(delta + bias).
#[inline(always)]
fn step_width<T: Real, const FMA: bool>(delta: &Group<T>, bias: &Group<T>) -> Group<T> {
    let mut dt = *delta;
    for k in 0..DEPTH {
        dt[k] = (delta[k] + bias[k]).softplus::<FMA>();
    }
    dt
}

/// Writes y for the channels from `first` on of batch entry `batch`.
#[inline(always)]
pub(super) fn forward<T: Real, const FMA: bool>(inputs: &Inputs<'_, T>, y: &Rows<'_, T>, batch: usize, first: usize) {
    let last = inputs.passes.len() - 1;
    for (number, pass) in inputs.passes.iter().enumerate() {
        let Constants { a, d, bias } = Constants::of(pass, first);
        let mut h = vec![[Lanes::ZERO; DEPTH]; a.len()];
        for step in 0..pass.x.length() {
            let t = pass.time(step);
            let x = pass.x.load(batch, t, first);
            let dt = step_width::<T, FMA>(&pass.delta.load(batch, t, first), &bias);
            let (b, c) = (pass.b.row(batch, t), pass.c.row(batch, t));
            let mut u = x;
            let mut s = if number == 0 { [Lanes::ZERO; DEPTH] } else { y.load(batch, t, first) };
            for k in 0..DEPTH {
                u[k] = dt[k] * x[k];
                s[k] = d[k].fma::<FMA>(x[k], s[k]);
            }
            for (((h, a), b), c) in h.iter_mut().zip(&a).zip(b).zip(c) {
                let (b, c) = (Lanes::splat(*b), Lanes::splat(*c));
                for k in 0..DEPTH {
                    let decay = (dt[k] * a[k]).exp2::<FMA>();
                    h[k] = decay.fma::<FMA>(h[k], u[k] * b);
                    s[k] = c.fma::<FMA>(h[k], s[k]);
                }
            }
            if number == last {
                let gate = inputs.gate.as_ref().map(|gate| gate.load(batch, t, first));
                for k in 0..DEPTH {
                    s[k] = s[k] * Lanes::splat(inputs.scale);
                    if let Some(z) = &gate {
                        s[k] = s[k] * z[k] * z[k].sigmoid::<FMA>();
                    }
                }
            }
            y.store(batch, t, first, &s);
        }
    }
}

/// Gradients of a pass. Those of `a`, `d` and `bias` are per batch entry, those of `b` and `c` per group of channels:
/// sums over threads would depend on their order.
pub(super) struct PassGradients<'a, T> {
    pub(super) x: Rows<'a, T>,
    pub(super) delta: Rows<'a, T>,
    /// (groups · batch, length, states): entry `group · batch + b`.
    pub(super) b: Rows<'a, T>,
    pub(super) c: Rows<'a, T>,
    /// (batch, channels, states).
    pub(super) a: Rows<'a, T>,
    /// (batch, 1, channels).
    pub(super) d: Rows<'a, T>,
    pub(super) bias: Rows<'a, T>,
}

/// All that backward writes.
pub(super) struct Gradients<'a, T> {
    pub(super) passes: Vec<PassGradients<'a, T>>,
    pub(super) gate: Option<Rows<'a, T>>,
}

/// What is kept of a segment, by step in it and state.
pub(super) struct Segment<T> {
    /// States after each step; the first entry is the state before the segment.
    h: Vec<Group<T>>,
    /// What was read out of the states: Σ c·h.
    read: Vec<Group<T>>,
    dt: Vec<Group<T>>,
    /// Gradients of b and c at one step, before the sum over channels.
    sums: Vec<[Lanes<T>; 2]>,
}

impl<T: Real> Segment<T> {
    /// A place for segments of sequences of `length`.
    pub(super) fn new(states: usize, length: usize) -> Self {
        let (zero, steps) = ([Lanes::ZERO; DEPTH], segment_steps(states).min(length));
        Self {
            h: vec![zero; (steps + 1) * states],
            read: vec![zero; steps],
            dt: vec![zero; steps],
            sums: vec![[Lanes::ZERO; 2]; states],
        }
    }
}

/// Writes all gradients for the channels from `first` on of batch entry `batch`, given those of y.
#[inline(always)]
pub(super) fn backward<T: Real, const FMA: bool>(
    segment: &mut Segment<T>,
    inputs: &Inputs<'_, T>,
    dy: &Rows<'_, T>,
    gradients: &Gradients<'_, T>,
    batch: usize,
    first: usize,
) {
    for (number, (pass, out)) in inputs.passes.iter().zip(&gradients.passes).enumerate() {
        let (length, states) = (pass.x.length(), pass.states());
        let per_segment = segment_steps(states);
        let zero = [Lanes::ZERO; DEPTH];
        let constants = Constants::of(pass, first);
        let mut carry = vec![zero; states]; // the gradient of the states, times their decay
        let mut da = vec![zero; states];
        let (mut dd, mut dbias) = (zero, zero);
        for (number_of_segment, h) in
            segment_starts::<T, FMA>(pass, &constants, batch, first).into_iter().enumerate().rev()
        {
            let steps = number_of_segment * per_segment..length.min((number_of_segment + 1) * per_segment);
            segment.h[..states].copy_from_slice(&h);
            for (i, step) in steps.clone().enumerate() {
                advance::<T, FMA>(pass, &constants, batch, first, step, segment, i);
            }
            for (i, step) in steps.enumerate().rev() {
                let t = pass.time(step);
                let (x, dt) = (pass.x.load(batch, t, first), &segment.dt[i]);
                let mut ds = dy.load(batch, t, first);
                for lanes in &mut ds {
                    *lanes = *lanes * Lanes::splat(inputs.scale);
                }
                if let (Some(gate), Some(out)) = (&inputs.gate, &gradients.gate) {
                    let z = gate.load(batch, t, first);
                    let mut dz = if number == 0 { zero } else { out.load(batch, t, first) };
                    for k in 0..DEPTH {
                        let sigmoid = z[k].sigmoid::<FMA>();
                        let silu = z[k] * sigmoid;
                        let slope = sigmoid * (Lanes::constant(1.0) + z[k] - silu);
                        let s = constants.d[k].fma::<FMA>(x[k], segment.read[i][k]);
                        dz[k] = (ds[k] * s).fma::<FMA>(slope, dz[k]);
                        ds[k] = ds[k] * silu;
                    }
                    out.store(batch, t, first, &dz);
                }
                let place = first / GROUP * pass.x.batch() + batch;
                let (b, c) = (pass.b.row(batch, t), pass.c.row(batch, t));
                let (db, dc) = (out.b.row_mut(place, t), out.c.row_mut(place, t));
                let (mut du, mut ddt, mut u) = (zero, zero, zero);
                for k in 0..DEPTH {
                    u[k] = dt[k] * x[k];
                }
                let (before, after) = segment.h[i * states..][..2 * states].split_at(states);
                for n in 0..states {
                    let (bn, cn) = (Lanes::splat(b[n]), Lanes::splat(c[n]));
                    let (mut dbn, mut dcn) = (Lanes::ZERO, Lanes::ZERO);
                    for k in 0..DEPTH {
                        let dh = cn.fma::<FMA>(ds[k], carry[n][k]);
                        dcn = ds[k].fma::<FMA>(after[n][k], dcn);
                        dbn = dh.fma::<FMA>(u[k], dbn);
                        du[k] = dh.fma::<FMA>(bn, du[k]);
                        let decayed = dh * (dt[k] * constants.a[n][k]).exp2::<FMA>();
                        carry[n][k] = decayed;
                        let exponent = decayed * before[n][k];
                        ddt[k] = exponent.fma::<FMA>(constants.a[n][k], ddt[k]);
                        da[n][k] = exponent.fma::<FMA>(dt[k], da[n][k]);
                    }
                    segment.sums[n] = [dbn, dcn];
                }
                // Apart from the loop above, which the compiler would not vectorise with this in it.
                for ((db, dc), [dbn, dcn]) in db.iter_mut().zip(dc).zip(&segment.sums) {
                    (*db, *dc) = (dbn.sum(), dcn.sum());
                }
                let delta = pass.delta.load(batch, t, first);
                let (mut dx, mut ddelta) = (zero, zero);
                for k in 0..DEPTH {
                    dx[k] = du[k].fma::<FMA>(dt[k], ds[k] * constants.d[k]);
                    dd[k] = ds[k].fma::<FMA>(x[k], dd[k]);
                    // The constants' a is a·log₂e; ln 2 takes that back.
                    let ddt = du[k].fma::<FMA>(x[k], ddt[k] * Lanes::constant(std::f64::consts::LN_2));
                    ddelta[k] = ddt * (delta[k] + constants.bias[k]).sigmoid::<FMA>();
                    dbias[k] = dbias[k] + ddelta[k];
                }
                out.x.store(batch, t, first, &dx);
                out.delta.store(batch, t, first, &ddelta);
            }
        }
        out.d.store(batch, 0, first, &dd);
        out.bias.store(batch, 0, first, &dbias);
        for (n, group) in da.iter().enumerate() {
            let mut column = [T::ZERO; GROUP];
            store(group, &mut column);
            for (channel, value) in (first..pass.x.width()).zip(column) {
                out.a.row_mut(batch, channel)[n] = value;
            }
        }
    }
}

/// The states before each segment.
#[inline(always)]
fn segment_starts<T: Real, const FMA: bool>(
    pass: &PassInputs<'_, T>,
    constants: &Constants<T>,
    batch: usize,
    first: usize,
) -> Vec<Vec<Group<T>>> {
    let mut starts = vec![vec![[Lanes::ZERO; DEPTH]; pass.states()]];
    let steps = segment_steps(pass.states());
    let whole = (pass.x.length() - 1) / steps; // those that another one follows
    for number in 0..whole {
        let mut h = starts[number].clone();
        for step in number * steps..(number + 1) * steps {
            let t = pass.time(step);
            let x = pass.x.load(batch, t, first);
            let dt = step_width::<T, FMA>(&pass.delta.load(batch, t, first), &constants.bias);
            for ((h, a), b) in h.iter_mut().zip(&constants.a).zip(pass.b.row(batch, t)) {
                for k in 0..DEPTH {
                    let decay = (dt[k] * a[k]).exp2::<FMA>();
                    h[k] = decay.fma::<FMA>(h[k], dt[k] * x[k] * Lanes::splat(*b));
                }
            }
        }
        starts.push(h);
    }
    starts
}

/// Computes step `step`, the `i`th of the segment, again from the one before.
#[inline(always)]
fn advance<T: Real, const FMA: bool>(
    pass: &PassInputs<'_, T>,
    constants: &Constants<T>,
    batch: usize,
    first: usize,
    step: usize,
    segment: &mut Segment<T>,
    i: usize,
) {
    let t = pass.time(step);
    let x = pass.x.load(batch, t, first);
    let dt = step_width::<T, FMA>(&pass.delta.load(batch, t, first), &constants.bias);
    let (b, c) = (pass.b.row(batch, t), pass.c.row(batch, t));
    let states = b.len();
    let (before, after) = segment.h[i * states..][..2 * states].split_at_mut(states);
    let mut read = [Lanes::ZERO; DEPTH];
    let mut u = x;
    for k in 0..DEPTH {
        u[k] = dt[k] * x[k];
    }
    for n in 0..b.len() {
        let (b, c) = (Lanes::splat(b[n]), Lanes::splat(c[n]));
        for k in 0..DEPTH {
            let decay = (dt[k] * constants.a[n][k]).exp2::<FMA>();
            let h = decay.fma::<FMA>(before[n][k], u[k] * b);
            read[k] = c.fma::<FMA>(h, read[k]);
            after[n][k] = h;
        }
    }
    (segment.read[i], segment.dt[i]) = (read, dt);
}
