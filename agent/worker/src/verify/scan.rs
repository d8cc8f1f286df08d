//! Kind `scan`: a Mamba that scans in one direction, as transformers' `MambaModel` without its word embeddings. It
//! checks the causal convolution, the scan and their gradients by a reference that is no vision model.

use anyhow::anyhow;
use fleet_common::plan::MethodSettings;
use tch::{Kind, Tensor};

use super::VerifyError;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use crate::models::mamba::{Direction, DirectionSizes, convolutions};
use crate::nn::{Builder, Ctx, Init, Linear, LinearShape, RmsNorm, Seed};
use crate::peft;
use crate::scan::selective_scan;
use crate::torch::grad;

struct Layer {
    norm: RmsNorm,
    in_proj: Linear,
    direction: Direction,
    out_proj: Linear,
}

impl Layer {
    /// (batch, length, width) to the same.
    fn mix(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let xz = self.in_proj.forward(&self.norm.forward(x), ctx);
        let mut halves = xz.chunk(2, -1);
        let (z, x) = (halves.remove(1), halves.remove(0));
        let inputs = convolutions(&x, [(&self.direction, false)], ctx);
        let y = selective_scan(&[self.direction.prepare(&inputs[0], ctx).pass(false)], Some(&z), 1.0);
        self.out_proj.forward(&y, ctx)
    }
}

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    folder.expect("architecture", &"mamba".into())?;
    let width = folder.int("hidden_size")?;
    let flag = |key: &str, default: bool| folder.config[key].as_bool().unwrap_or(default);
    let sizes = DirectionSizes {
        inner: folder.int("expand")? * width,
        states: folder.int("state_size")?,
        taps: folder.int("conv_kernel")?,
        step_rank: folder.int("time_step_rank")?,
        conv_bias: flag("use_conv_bias", true),
    };
    let eps = folder.number("layer_norm_epsilon")?;
    let bias = flag("use_bias", false);
    let shape = if bias { LinearShape::USUAL } else { LinearShape::USUAL.without_bias() };
    let weights = folder.weights(|| Ok(Vec::new()))?;
    let b = Builder::new(peft::method(&MethodSettings::Full), Some(weights), Seed::root(0), folder.device, Kind::Float);
    let layer = |i: i64| {
        let b = b.sub("layers").sub(i);
        let mixer = b.sub("mixer");
        Layer {
            norm: b.rms_norm("norm", width, eps),
            in_proj: mixer.linear_shaped("in_proj", width, 2 * sizes.inner, shape),
            direction: Direction::new(&mixer, "", sizes, Init::StepWidths),
            out_proj: mixer.linear_shaped("out_proj", sizes.inner, width, shape),
        }
    };
    let layers: Vec<Layer> = (0..folder.int("num_hidden_layers")?).map(layer).collect();
    let norm = b.rms_norm("norm_f", width, eps);
    let (params, load) = b.finish().map_err(anyhow::Error::from)?;
    let load = load.unwrap_or_default();
    let strange: Vec<_> =
        load.unexpected.iter().filter(|name| *name != "embeddings.weight").chain(&load.missing).collect();
    if !strange.is_empty() {
        return Err(anyhow!("the weights and the model do not have the same tensors: {strange:?}").into());
    }

    let ctx = Ctx::train(Seed::root(0));
    let mut x = folder.io("inputs_embeds")?;
    for (i, layer) in layers.iter().enumerate() {
        let mixed = layer.mix(&x, &ctx);
        let name = format!("layer{i}.mixer_out");
        if folder.has(&name) {
            checks.tensors(&name, &mixed, &folder.io(&name)?, Tolerance::LOGITS);
        }
        x = &x + mixed; // not in place: the norm keeps its input for backward
    }
    let last = norm.forward(&x);
    checks.tensors("last_hidden", &last, &folder.io("last_hidden")?, Tolerance::LOGITS);
    let loss = (&last * folder.io("target")?).sum(Kind::Float);
    let reference = folder.io("loss")?;
    let found = loss.double_value(&[]);
    checks.numbers("loss", found, reference.double_value(&[0]), Tolerance::Relative(1e-5, 1e-5));
    let named: Vec<_> = params.trainable().collect();
    let targets: Vec<&Tensor> = named.iter().map(|p| &p.tensor).collect();
    let grads = grad(&[&loss], &[None], &targets)?;
    for (name, reference) in folder.io_under("grad.") {
        let place = named.iter().position(|p| p.name == name);
        let ours = place.and_then(|i| grads[i].as_ref()).map(Tensor::shallow_clone).unwrap_or_default();
        checks.tensors(format!("grad.{name}"), &ours, &reference, Tolerance::GRADIENTS);
    }
    Ok(())
}
