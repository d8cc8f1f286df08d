//! Attention over tokens, from the product that holds q, k and v to what the projection reads.

use crate::memory::graph::record;
use crate::memory::tape::{SINGLE, Tensor};

use super::shape::{copied, copied_back, split};
use super::{add, scaled};

/// libtorch's fused attention on the CPU: keeps q, k and v (views), the output, a number per token and head, and the bias
/// where there is one; no probabilities.
pub(crate) fn attention(qkv: &[Tensor], bias: Option<&Tensor>, rows: u64) -> Tensor {
    let [q, k, v] = qkv else { unreachable!("attention has q, k and v") };
    let y = q.alike();
    let sums = q.tape().tensor(rows, SINGLE);
    let saved = [q.save(), k.save(), v.save(), y.save(), sums.save()];
    let bias = bias.map(Tensor::save);
    record(vec![y], &[q, k, v], move |mut grads, _| {
        let _kept = (saved, bias);
        let grad = grads.pop().flatten();
        (0..3).map(|_| grad.as_ref().map(Tensor::alike)).collect()
    })
    .swap_remove(0)
}

/// Attention in single steps, as it is where the bias trains: copies of q, k and v in the order of heads and the
/// probabilities are kept. `scores` is the number of pairs of tokens that look at each other.
pub(crate) fn attention_with_trained_bias(qkv: &[Tensor], bias: &Tensor, scores: u64) -> Tensor {
    let [q, k, v] = qkv else { unreachable!("attention has q, k and v") };
    let probabilities = {
        let scaled_q = scaled(q);
        let products = multiplied(&copied(&scaled_q), &copied(k), scores);
        let with_bias = add(&products, bias);
        drop((scaled_q, products));
        softmax(&with_bias)
    };
    let y = multiplied(&probabilities, &copied(v), q.numel);
    copied(&y)
}

/// A batch of products of two matrices; each keeps the other's factor.
fn multiplied(a: &Tensor, b: &Tensor, numel: u64) -> Tensor {
    let y = a.tape().tensor(numel, a.width);
    let saved = [a.save_if(b.requires_grad()), b.save_if(a.requires_grad())];
    let sizes = [a.numel, b.numel];
    record(vec![y], &[a, b], move |mut grads, needed| {
        let _saved = saved;
        let grad = grads.pop().flatten();
        let make = |i: usize| grad.as_ref().filter(|_| needed[i]).map(|g| g.tape().tensor(sizes[i], g.width));
        vec![make(0), make(1)]
    })
    .swap_remove(0)
}

/// Keeps its output.
fn softmax(x: &Tensor) -> Tensor {
    super::relu(x)
}

/// q, k and v as views of one product, by head. Backward joins their gradients and puts them back into order.
pub(crate) fn thirds(qkv: &Tensor) -> Vec<Tensor> {
    let by_head = copied_back(qkv);
    split(&by_head, &[qkv.numel / 3; 3])
}
