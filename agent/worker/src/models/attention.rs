//! Attention, as several architectures have it.

use tch::Tensor;

use crate::nn::Ctx;

/// Scaled dot-product attention of `qkv` (batch, tokens, 3·width), laid out as queries, keys and values of all heads one
/// after another; (batch, tokens, width). Where it is causal, a token sees itself and those before it.
pub(super) fn attend(qkv: &Tensor, heads: i64, causal: bool, ctx: &Ctx) -> Tensor {
    let (batch, tokens, width) = (qkv.size()[0], qkv.size()[1], qkv.size()[2] / 3);
    let head = width / heads;
    let mut qkv = qkv.view([batch, tokens, 3, heads, head]).permute([2, 0, 3, 1, 4]).unbind(0); // 3 × (batch, heads, tokens, head)
    let (v, k, q) = (qkv.remove(2), qkv.remove(1), qkv.remove(0));
    scaled_dot_product(&q, &k, &v, causal, ctx)
}

/// (batch, tokens, width) → (batch, heads, tokens, width / heads).
pub(super) fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let (batch, tokens, width) = (x.size()[0], x.size()[1], x.size()[2]);
    x.view([batch, tokens, heads, width / heads]).transpose(1, 2)
}

/// Attention of queries (batch, heads, tokens, head) to keys and values of any number of tokens; (batch, tokens,
/// heads·head).
pub(super) fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool, ctx: &Ctx) -> Tensor {
    let (batch, heads, tokens, head) = (q.size()[0], q.size()[1], q.size()[2], q.size()[3]);
    ctx.count(2 * batch * heads * tokens * k.size()[2] * head);
    let y = Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, causal, None, false);
    y.transpose(1, 2).reshape([batch, tokens, heads * head])
}
