//! The same in libtorch's own operators, recorded by its autograd: what the kernels are compared with, and what
//! computes where there is none.
//!
//! The loop runs over tensors that were taken apart beforehand. Indexing into one big tensor at each step, as the
//! reference does, has a backward that writes a gradient as large as that tensor per step.

use tch::Tensor;

use super::{Conv, Pass};

/// As [`super::selective_scan`].
pub fn selective_scan(passes: &[Pass<'_>], gate: Option<&Tensor>, scale: f64) -> Tensor {
    let sum = passes.iter().map(one_pass).reduce(|sum, s| sum + s).expect("a scan has a pass");
    let y = sum * scale;
    match gate {
        Some(gate) => y * gate.silu(),
        None => y,
    }
}

fn one_pass(pass: &Pass<'_>) -> Tensor {
    let dt = (pass.delta + pass.bias).softplus(); // (batch, length, channels)
    let decay = (dt.unsqueeze(-1) * pass.a).exp().unbind(1); // length × (batch, channels, states)
    let input = ((&dt * pass.x).unsqueeze(-1) * pass.b.unsqueeze(2)).unbind(1);
    let c = pass.c.unsqueeze(-1).unbind(1); // length × (batch, states, 1)
    let length = decay.len();
    let mut read: Vec<Tensor> = Vec::with_capacity(length);
    let mut h: Option<Tensor> = None;
    for step in 0..length {
        let t = if pass.reverse { length - 1 - step } else { step };
        let now = match h {
            Some(h) => &decay[t] * h + &input[t],
            None => input[t].shallow_clone(),
        };
        read.push(now.matmul(&c[t]).squeeze_dim(-1));
        h = Some(now);
    }
    if pass.reverse {
        read.reverse();
    }
    Tensor::stack(&read, 1) + pass.x * pass.d
}

/// As [`super::conv_silu`].
pub fn conv_silu(x: &Tensor, convs: &[Conv<'_>]) -> Vec<Tensor> {
    let one = |conv: &Conv<'_>| {
        let (channels, taps) = (conv.weight.size()[0], conv.weight.size()[2]);
        let right = taps - 1 - conv.left;
        let x = x.transpose(1, 2);
        let (x, weight) = if conv.reverse {
            (x.constant_pad_nd([right, conv.left]), conv.weight.flip([2]))
        } else {
            (x.constant_pad_nd([conv.left, right]), conv.weight.shallow_clone())
        };
        x.conv1d(&weight, conv.bias, 1, 0, 1, channels).silu().transpose(1, 2)
    };
    convs.iter().map(one).collect()
}
