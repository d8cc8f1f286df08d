//! ViT (`agent/worker/src/models/vit.rs`).

use super::build::Builder;
use super::layers::{Linear, Norm, Pass, gelu_linear, norm_linear};
use super::model::Model;
use super::ops;
use super::tape::Tensor;
use crate::spec::Backbone;

/// Sizes of a ViT.
struct Sizes {
    patch: u64,
    width: u64,
    depth: u64,
    heads: u64,
}

fn sizes(backbone: Backbone) -> Sizes {
    match backbone {
        Backbone::VitMicro => Sizes { patch: 8, width: 128, depth: 6, heads: 4 },
        Backbone::VitSmallPatch16 => Sizes { patch: 16, width: 384, depth: 12, heads: 6 },
        _ => Sizes { patch: 16, width: 192, depth: 12, heads: 3 },
    }
}

/// The model for inputs of `side` pixels.
pub(super) fn model(b: &Builder<'_>, backbone: Backbone, side: u64, classes: u64) -> Model {
    let Sizes { patch, width, depth, heads } = sizes(backbone);
    let patches = (side / patch).pow(2);
    let embed = b.sub("patch_embed").conv("proj", patch, 3, width, 1, true);
    let class = b.param("cls_token", width);
    let positions = b.param("pos_embed", (1 + patches) * width);
    let blocks = b.sub("blocks");
    let blocks = (0..depth).map(|i| blocks.block(&i.to_string(), |b| block(b, width, heads))).collect();
    let norm = b.layer_norm("norm", width);
    let head = b.head("").linear("head", width, classes, true);
    Model {
        before: Box::new(move |images, pass| {
            let patches = ops::copied_back(&embed.forward(images, patches, false, pass));
            let class = ops::cast(&repeated(&class, pass.batch), patches.width);
            vec![ops::add(&ops::cat(&[&class, &patches]), &positions)]
        }),
        blocks,
        after: Box::new(move |mut xs, pass| {
            let features = norm.layer(&xs.swap_remove(0));
            let class = ops::part(&features, pass.batch * width);
            head.forward(&class, pass)
        }),
    }
}

/// A token for each of `batch` samples: a view. Backward sums.
pub(super) fn repeated(token: &Tensor, batch: u64) -> Tensor {
    let one = token.numel;
    super::graph::record_one(token.part(one * batch), &[token], Vec::new(), move |grad, _| {
        vec![Some(grad.tape().tensor(one, grad.width))]
    })
}

/// What attention and MLP of a transformer block are made of.
struct Layers {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

fn block(b: &Builder<'_>, width: u64, heads: u64) -> impl Fn(&[Tensor], Pass) -> Vec<Tensor> + use<> {
    let layers = Layers {
        norm1: b.layer_norm("norm1", width),
        qkv: b.linear("attn.qkv", width, 3 * width, true),
        proj: b.linear("attn.proj", width, width, true),
        norm2: b.layer_norm("norm2", width),
        fc1: b.linear("mlp.fc1", width, 4 * width, true),
        fc2: b.linear("mlp.fc2", 4 * width, width, true),
    };
    move |xs, pass| {
        let l = &layers;
        let attended = {
            let qkv = norm_linear(&l.norm1, &l.qkv, &xs[0], pass);
            let y = ops::attention(&ops::thirds(&qkv), None, xs[0].numel / width * heads);
            l.proj.forward(&y, pass)
        };
        let x = ops::add(&xs[0], &attended);
        drop(attended);
        let hidden = norm_linear(&l.norm2, &l.fc1, &x, pass);
        vec![ops::add(&x, &gelu_linear(&l.fc2, &hidden, pass))]
    }
}
