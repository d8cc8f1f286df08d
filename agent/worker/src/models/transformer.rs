//! Pre-norm transformer blocks, as ViT, DINOv2, CLIP and SigLIP have them. The arithmetic is one; names, activations
//! and a few additions differ.

use tch::Tensor;

use crate::nn::{Activation, Block, Builder, Ctx, Init, LayerNorm, Linear, Part};

use super::attention::{attend, scaled_dot_product, split_heads};

/// Where a block's queries, keys and values come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum QkvNames {
    /// One linear layer.
    Packed(&'static str),
    /// One product whose weight and bias are called `NAME_weight` and `NAME_bias`: PyTorch's `MultiheadAttention`.
    InProjection(&'static str),
    /// Three linear layers: queries, keys, values.
    Split([&'static str; 3]),
}

/// What a block calls its parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockNames {
    pub(crate) norm1: &'static str,
    pub(crate) qkv: QkvNames,
    pub(crate) proj: &'static str,
    pub(crate) norm2: &'static str,
    pub(crate) fc1: &'static str,
    pub(crate) fc2: &'static str,
    /// What attention and MLP are multiplied by, per channel, before they are added; `None` where nothing is.
    pub(crate) scales: Option<[&'static str; 2]>,
}

impl BlockNames {
    /// timm's ViT.
    pub(crate) const TIMM: Self = Self {
        norm1: "norm1",
        qkv: QkvNames::Packed("attn.qkv"),
        proj: "attn.proj",
        norm2: "norm2",
        fc1: "mlp.fc1",
        fc2: "mlp.fc2",
        scales: None,
    };

    /// DINOv2 as timm and its authors name it.
    pub(crate) const DINOV2: Self = Self { scales: Some(["ls1.gamma", "ls2.gamma"]), ..Self::TIMM };

    /// DINOv2 as transformers names it.
    pub(crate) const DINOV2_HF: Self = Self {
        norm1: "norm1",
        qkv: QkvNames::Split(["attention.attention.query", "attention.attention.key", "attention.attention.value"]),
        proj: "attention.output.dense",
        norm2: "norm2",
        fc1: "mlp.fc1",
        fc2: "mlp.fc2",
        scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
    };

    /// CLIP as open_clip (and OpenAI) names it.
    pub(crate) const OPEN_CLIP: Self = Self {
        norm1: "ln_1",
        qkv: QkvNames::InProjection("attn.in_proj"),
        proj: "attn.out_proj",
        norm2: "ln_2",
        fc1: "mlp.c_fc",
        fc2: "mlp.c_proj",
        scales: None,
    };

    /// CLIP and SigLIP as transformers names them.
    pub(crate) const HF: Self = Self {
        norm1: "layer_norm1",
        qkv: QkvNames::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        proj: "self_attn.out_proj",
        norm2: "layer_norm2",
        fc1: "mlp.fc1",
        fc2: "mlp.fc2",
        scales: None,
    };
}

/// Sizes of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BlockShape {
    /// Width of a token.
    pub(crate) width: i64,
    /// Attention heads.
    pub(crate) heads: i64,
    /// Width of the MLP's middle.
    pub(crate) hidden: i64,
    /// Epsilon of the layer norms.
    pub(crate) eps: f64,
    /// The MLP's.
    pub(crate) activation: Activation,
    /// A token sees itself and those before it only.
    pub(crate) causal: bool,
}

/// x + attention(norm(x)), then x + MLP(norm(x)); both scaled per channel where the names say so.
pub(crate) struct TransformerBlock {
    heads: i64,
    causal: bool,
    qkv: Qkv,
    proj: Linear,
    norm2_fc1: Part,
    act_fc2: Part,
    scales: Option<[Tensor; 2]>,
}

enum Qkv {
    Packed(Part),
    Split(Box<(LayerNorm, [Linear; 3])>),
}

impl TransformerBlock {
    pub(crate) fn new(b: &Builder, names: &BlockNames, shape: &BlockShape) -> Self {
        let BlockShape { width, heads, hidden, eps, activation, causal } = *shape;
        let qkv = match names.qkv {
            QkvNames::Packed(name) => Qkv::Packed(b.norm_linear(names.norm1, eps, name, width, 3 * width)),
            QkvNames::InProjection(name) => Qkv::Packed(b.norm_in_projection(names.norm1, eps, name, width, 3 * width)),
            QkvNames::Split(projections) => {
                let norm = b.layer_norm(names.norm1, width, eps);
                Qkv::Split(Box::new((norm, projections.map(|name| b.linear(name, width, width)))))
            }
        };
        Self {
            heads,
            causal,
            qkv,
            proj: b.linear(names.proj, width, width),
            norm2_fc1: b.norm_linear(names.norm2, eps, names.fc1, width, hidden),
            act_fc2: b.act_linear(activation, names.fc2, hidden, width),
            scales: names.scales.map(|names| names.map(|name| b.param(name, &[width], Init::Constant(1.0)))),
        }
    }

    fn attention(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let y = match &self.qkv {
            Qkv::Packed(part) => attend(&part.forward(x.shallow_clone(), ctx), self.heads, self.causal, ctx),
            Qkv::Split(split) => {
                let (norm, projections) = split.as_ref();
                let x = norm.forward(x);
                let [q, k, v] = projections.each_ref().map(|p| split_heads(&p.forward(&x, ctx), self.heads));
                scaled_dot_product(&q, &k, &v, self.causal, ctx)
            }
        };
        self.proj.forward(&y, ctx)
    }
}

impl Block for TransformerBlock {
    fn forward(&self, xs: Vec<Tensor>, ctx: &Ctx) -> Vec<Tensor> {
        let attended = self.attention(&xs[0], ctx);
        let Some([scale1, scale2]) = &self.scales else {
            let x = &xs[0] + attended;
            let hidden = self.norm2_fc1.forward(x.shallow_clone(), ctx); // (batch, tokens, hidden)
            return vec![x + self.act_fc2.forward_last(hidden, ctx)];
        };
        let x = &xs[0] + attended * scale1;
        let hidden = self.norm2_fc1.forward(x.shallow_clone(), ctx);
        vec![x + self.act_fc2.forward(hidden, ctx) * scale2]
    }
}
