//! MobileVLM (Chu et al., arXiv 2312.16886, 2402.03766): CLIP's encoder up to its last block but one, a projector that makes
//! a quarter as many tokens of its patches, and a small Llama.

use tch::{Kind, Tensor};

use crate::nn::{Builder, Conv2d, ConvShape, Ctx, Executor, LayerNorm, Linear, LinearShape};

use super::clip::{ClipNames, ClipVision, ClipVisionConfig};
use super::decoder::{Decoder, DecoderConfig, Sight};
use super::tower::tokens;
use super::vlm::Vlm;

/// Which projector a MobileVLM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projector {
    /// Of the first: two inverted residuals.
    Ldp,
    /// Of the second: a mean, and positions by a convolution.
    LdpV2,
}

/// Sizes of a MobileVLM.
#[derive(Debug, Clone, PartialEq)]
pub struct MobileVlmConfig {
    /// The encoder of images.
    pub vision: ClipVisionConfig,
    /// The decoder.
    pub text: DecoderConfig,
    /// What is between them.
    pub projector: Projector,
}

/// A MobileVLM.
pub struct MobileVlm {
    vision: ClipVision,
    projector: LdpProjector,
    decoder: Decoder,
    head: Linear,
}

impl MobileVlm {
    /// Builds the model under its published names.
    pub fn new(b: &Builder, c: &MobileVlmConfig) -> Self {
        let head = LinearShape::USUAL.without_bias();
        Self {
            vision: ClipVision::new(&b.sub("model.vision_tower.vision_tower"), ClipNames::Hf, &c.vision),
            projector: LdpProjector::new(&b.sub("model.mm_projector"), c),
            decoder: Decoder::new(&b.sub("model"), &c.text),
            head: b.linear_shaped("lm_head", c.text.width, c.text.vocabulary, head),
        }
    }

    /// Tokens (batch, patches, width) of images behind the last block but one, without the class token; not normalised.
    pub fn features(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        let hidden = self.vision.hidden(images, 1, ctx, executor);
        hidden.narrow(1, 1, hidden.size()[1] - 1)
    }
}

impl Vlm for MobileVlm {
    fn image_tokens(&self, images: &Tensor, ctx: &Ctx, executor: &dyn Executor) -> Tensor {
        self.projector.forward(&self.features(images, ctx, executor), ctx)
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn logits(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        self.head.forward(x, ctx)
    }

    fn prompt_sight(&self) -> Sight<'static> {
        Sight::Causal
    }
}

/// Side of the grid of means that the second makes of any grid.
const MEANS: i64 = 12;

/// Fewer tokens for the decoder.
struct LdpProjector {
    first: Linear,
    second: Linear,
    fewer: Fewer,
}

enum Fewer {
    Residuals(Box<[InvertedResidual; 2]>),
    Mean { positions: Conv2d },
}

impl LdpProjector {
    fn new(b: &Builder, c: &MobileVlmConfig) -> Self {
        let (inputs, width) = (c.vision.width, c.text.width);
        let [first, second] = match c.projector {
            Projector::Ldp => ["model.mlp.1", "model.mlp.3"],
            Projector::LdpV2 => ["mlp.mlp.0", "mlp.mlp.2"],
        };
        Self {
            first: b.linear(first, inputs, width),
            second: b.linear(second, width, width),
            fewer: match c.projector {
                Projector::Ldp => {
                    let block = |i, stride| InvertedResidual::new(&b.sub(format!("model.mb_block.{i}")), width, stride);
                    Fewer::Residuals(Box::new([block(1, 1), block(2, 2)]))
                }
                Projector::LdpV2 => {
                    let shape = ConvShape { bias: true, ..ConvShape::same(3, 1, width) };
                    Fewer::Mean { positions: b.conv2d("peg.peg.0", width, width, shape) }
                }
            },
        }
    }

    /// (batch, side², inputs) → (batch, tokens, width): half of the side rounded up, squared, or [`MEANS`]².
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let x = self.second.forward(&self.first.forward(x, ctx).gelu("none"), ctx);
        let (batch, places, width) = (x.size()[0], x.size()[1], x.size()[2]);
        let side = (places as f64).sqrt().round() as i64;
        let map = x.transpose(1, 2).reshape([batch, width, side, side]);
        let map = match &self.fewer {
            Fewer::Residuals(blocks) => blocks.iter().fold(map, |map, block| block.forward(&map, ctx)),
            Fewer::Mean { positions } => {
                let map = map.adaptive_avg_pool2d([MEANS, MEANS]);
                positions.forward(&map, ctx) + map
            }
        };
        tokens(&map)
    }
}

/// MobileNetV3's block without its expansion, with layer norms over channels.
struct InvertedResidual {
    depthwise: Conv2d,
    norm1: LayerNorm,
    squeeze: Conv2d,
    excite: Conv2d,
    pointwise: Conv2d,
    norm2: LayerNorm,
    adds: bool,
}

impl InvertedResidual {
    fn new(b: &Builder, width: i64, stride: i64) -> Self {
        let b = b.sub("block");
        let point = |bias| ConvShape { kernel: 1, stride: 1, padding: 0, groups: 1, bias };
        let squeezed = divisible(width / 4);
        Self {
            depthwise: b.conv2d("0.0", width, width, ConvShape::same(3, stride, width)),
            norm1: b.layer_norm("0.1", width, 1e-5),
            squeeze: b.conv2d("1.fc1", width, squeezed, point(true)),
            excite: b.conv2d("1.fc2", squeezed, width, point(true)),
            pointwise: b.conv2d("2.0", width, width, point(false)),
            norm2: b.layer_norm("2.1", width, 1e-5),
            adds: stride == 1,
        }
    }

    fn forward(&self, map: &Tensor, ctx: &Ctx) -> Tensor {
        let x = over_channels(&self.norm1, &self.depthwise.forward(map, ctx)).hardswish();
        let mean = x.mean_dim([2, 3].as_slice(), true, None::<Kind>);
        let share = self.excite.forward(&self.squeeze.forward(&mean, ctx).relu(), ctx).hardsigmoid();
        let x = over_channels(&self.norm2, &self.pointwise.forward(&(x * share), ctx));
        if self.adds { x + map } else { x }
    }
}

/// Normalises each place of a map (batch, width, rows, columns) over its channels.
fn over_channels(norm: &LayerNorm, map: &Tensor) -> Tensor {
    norm.forward(&map.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}

/// The nearest multiple of 8, at least 8, and not below nine tenths of `n`: how MobileNets round widths.
fn divisible(n: i64) -> i64 {
    let near = ((n + 4) / 8 * 8).max(8);
    if 10 * near < 9 * n { near + 8 } else { near }
}
