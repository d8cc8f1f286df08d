//! Attention without a mask, as several architectures have it.

use tch::Tensor;

use crate::nn::Ctx;

/// Scaled dot-product attention of `qkv` (batch, tokens, 3·width), laid out as queries, keys and values of all heads one
/// after another; (batch, tokens, width).
pub(super) fn attend(qkv: &Tensor, heads: i64, ctx: &Ctx) -> Tensor {
    let (batch, tokens, width) = (qkv.size()[0], qkv.size()[1], qkv.size()[2] / 3);
    let head = width / heads;
    let mut qkv = qkv.view([batch, tokens, 3, heads, head]).permute([2, 0, 3, 1, 4]).unbind(0); // 3 × (batch, heads, tokens, head)
    let (v, k, q) = (qkv.remove(2), qkv.remove(1), qkv.remove(0));
    ctx.count(2 * batch * heads * tokens * tokens * head);
    let y = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, None, false);
    y.transpose(1, 2).reshape([batch, tokens, width])
}
