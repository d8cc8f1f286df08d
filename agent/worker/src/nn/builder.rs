//! The builder: where a model's layers come from.

use std::cell::RefCell;
use std::rc::Rc;

use fleet_common::record::LoadSummary;
use fleet_common::spec::is_target;
use tch::{Device, Kind, Tensor};

use super::layers::{BatchNorm2d, Conv2d, LayerNorm, Linear, RmsNorm, Weight};
use super::pairs::{ActLinear, Activation, Norm, NormActConv, NormKind, NormLinear};
use super::{Block, ClassToken, Init, Param, Params, Part, Role, Seed, Slot, Weights, resample};
use crate::peft::Method;
use crate::quant::Nf4;
use crate::torch::GradMode;

/// Hands out layers by name.
///
/// Problems (a shape that differs, a rank that does not fit) are collected while the model is being put together and
/// come out of [`Builder::finish`], so that an architecture reads as an architecture.
#[derive(Clone)]
pub struct Builder {
    shared: Rc<RefCell<Shared>>,
    method: Rc<dyn Method>,
    path: String,
    role: Role,
}

struct Shared {
    device: Device,
    kind: Kind,
    seed: Seed,
    weights: Option<Weights>,
    fresh_head: bool,
    frozen_statistics: bool,
    params: Params,
    load: LoadSummary,
    problems: Vec<String>,
}

/// The shape of a square convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Side of the kernel, pixels.
    pub kernel: i64,
    /// Pixels from one output to the next.
    pub stride: i64,
    /// Zeros around the input, pixels.
    pub padding: i64,
    /// Groups of channels that do not see each other.
    pub groups: i64,
    /// Whether something is added to each channel.
    pub bias: bool,
}

impl ConvShape {
    /// One that cuts its input into patches of `side` pixels, with bias.
    pub const fn patches(side: i64) -> Self {
        Self { kernel: side, stride: side, padding: 0, groups: 1, bias: true }
    }

    /// One of `kernel` pixels whose output is as large as its input (but for `stride`), without bias.
    pub const fn same(kernel: i64, stride: i64, groups: i64) -> Self {
        Self { kernel, stride, padding: kernel / 2, groups, bias: false }
    }
}

/// How a linear layer is, where it is not as most are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearShape {
    /// Fresh weights.
    pub weight: Init,
    /// Fresh biases; `None` for a layer without.
    pub bias: Option<Init>,
}

impl LinearShape {
    /// As timm and others begin them: truncated normal with deviation 0.02, bias 0.
    pub const USUAL: Self = Self { weight: Init::TruncatedNormal { std: 0.02 }, bias: Some(Init::Constant(0.0)) };

    /// The same without a bias.
    pub const fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }
}

/// Whether all values are finite numbers; looked at piece by piece, because looking takes several times the memory of what is
/// looked at.
fn is_finite(values: &Tensor) -> bool {
    const PIECE: i64 = 1 << 20;
    let flat = values.flatten(0, -1);
    let all = flat.size()[0];
    (0..all)
        .step_by(PIECE as usize)
        .all(|from| flat.narrow(0, from, PIECE.min(all - from)).isfinite().all().int64_value(&[]) != 0)
}

/// The same values in at least single precision.
fn wide(values: Tensor) -> Tensor {
    match values.kind() {
        Kind::Half | Kind::BFloat16 => values.to_kind(Kind::Float),
        _ => values,
    }
}

/// What kept a model from being built.
#[derive(Debug, thiserror::Error)]
#[error("the model cannot be built: {}", problems.join("; "))]
pub struct BuildError {
    /// One sentence each, with what was expected and what was found.
    pub problems: Vec<String>,
}

impl Builder {
    /// A builder for a model on `device`, in `kind`, adapted by `method`, with values from `weights` where it has them
    /// and fresh ones from `seed` elsewhere.
    pub fn new(method: Rc<dyn Method>, weights: Option<Weights>, seed: Seed, device: Device, kind: Kind) -> Self {
        let shared = Shared {
            device,
            kind,
            seed,
            weights,
            fresh_head: false,
            frozen_statistics: false,
            params: Params::default(),
            load: LoadSummary::default(),
            problems: Vec::new(),
        };
        Self { shared: Rc::new(RefCell::new(shared)), method, path: String::new(), role: Role::Base }
    }

    /// Lets the head start fresh although the weights have one of the same size: it tells other classes apart.
    pub fn with_fresh_head(self) -> Self {
        self.shared.borrow_mut().fresh_head = true;
        self
    }

    /// Lets batch norms keep the running statistics that they start with.
    pub fn with_frozen_statistics(self) -> Self {
        self.shared.borrow_mut().frozen_statistics = true;
        self
    }

    /// The builder of the part called `name`.
    pub fn sub(&self, name: impl std::fmt::Display) -> Self {
        Self { path: self.full(&name.to_string()), ..self.clone() }
    }

    /// The builder of the classification head: like [`Builder::sub`], but its parameters train under every method and
    /// start fresh when the weights are for another number of classes.
    pub fn head(&self, name: impl std::fmt::Display) -> Self {
        Self { role: Role::Head, ..self.sub(name) }
    }

    /// A builder for what a method adds at this place; its parameters train and are in no weights file.
    pub fn adapter(&self) -> Self {
        Self { role: Role::Adapter, ..self.clone() }
    }

    /// Where the model's tensors live.
    pub fn device(&self) -> Device {
        self.shared.borrow().device
    }

    /// The path of this part.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn full(&self, name: &str) -> String {
        match (self.path.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{name}", self.path),
        }
    }

    /// Notes a reason why the model cannot be built.
    pub fn problem(&self, what: String) {
        self.shared.borrow_mut().problems.push(what);
    }

    /// A parameter of the model: from the weights, or fresh.
    pub fn param(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        self.param_or_adapted(name, shape, init, |_| None)
    }

    /// A table of learned positions (1, 1 + `side`², `width`), one of which is the class token's. From weights for
    /// another input size it is resampled as timm does.
    pub fn position_table(&self, name: &str, class: ClassToken, side: i64, width: i64) -> Tensor {
        let init = Init::TruncatedNormal { std: 0.02 };
        self.param_or_adapted(name, &[1, 1 + side * side, width], init, |theirs| {
            resample::position_table(theirs, class, side)
        })
    }

    /// A parameter from weights of this shape, from weights that `adapt` can make fit, or fresh.
    fn param_or_adapted(
        &self,
        name: &str,
        shape: &[i64],
        init: Init,
        adapt: impl Fn(&Tensor) -> Option<Tensor>,
    ) -> Tensor {
        let name = self.full(name);
        let values = self.values(&name, shape, init, adapt);
        let trains = match self.role {
            Role::Head | Role::Adapter => true,
            Role::Base => self.method.trains(&name),
            Role::Buffer => false,
        };
        self.register(name, values, None, trains)
    }

    /// The initial values of the parameter with this whole name, a copy of its own, so that training never writes into
    /// the weights that were read.
    fn values(&self, name: &str, shape: &[i64], init: Init, adapt: impl Fn(&Tensor) -> Option<Tensor>) -> Tensor {
        let shared = &mut *self.shared.borrow_mut();
        let _off = GradMode::off();
        let found = match self.role {
            Role::Adapter => None,
            Role::Base | Role::Head | Role::Buffer => shared.weights.as_ref().and_then(|w| w.get(name)),
        };
        if let Some(values) = found
            && values.is_floating_point()
            && !is_finite(values)
        {
            shared.problems.push(format!("{name}: the weights hold values that are not finite numbers"));
        }
        let adapted = |values: &Tensor| adapt(values).filter(|v| v.size() == shape);
        let values = match found {
            Some(values) if values.size() == shape && !(shared.fresh_head && self.role == Role::Head) => {
                shared.load.matched += 1;
                Some(values.shallow_clone())
            }
            Some(_) if self.role == Role::Head => {
                shared.load.replaced.push(name.to_owned());
                None
            }
            Some(values) if adapted(values).is_some() => {
                shared.load.matched += 1;
                shared.load.resampled.push(name.to_owned());
                adapted(values)
            }
            Some(values) => {
                shared.problems.push(format!("{name}: expected shape {shape:?}, the weights have {:?}", values.size()));
                None
            }
            None => {
                if self.role != Role::Adapter && shared.weights.is_some() {
                    shared.load.missing.push(name.to_owned());
                }
                None
            }
        };
        let values = values.unwrap_or_else(|| init.draw(shape, shared.seed.named(name)));
        let kind = if matches!(init, Init::Count) { Kind::Int64 } else { shared.kind };
        values.to_device(shared.device).to_kind(kind).copy()
    }

    /// Notes a parameter of this whole name.
    fn register(&self, name: String, values: Tensor, packed: Option<Nf4>, trains: bool) -> Tensor {
        let tensor = values.set_requires_grad(trains);
        let param = Param { name, tensor: tensor.shallow_clone(), packed, role: self.role, trains };
        self.shared.borrow_mut().params.push(param);
        tensor
    }

    /// A linear layer with bias, fresh as [`LinearShape::USUAL`] says, and with whatever adapter the method puts on it.
    pub fn linear(&self, name: &str, inputs: i64, outputs: i64) -> Linear {
        self.linear_shaped(name, inputs, outputs, LinearShape::USUAL)
    }

    /// A linear layer with whatever adapter the method puts on it.
    pub fn linear_shaped(&self, name: &str, inputs: i64, outputs: i64, shape: LinearShape) -> Linear {
        let b = self.sub(name);
        let weight = b.linear_weight(inputs, outputs, shape.weight);
        let bias = shape.bias.map(|init| b.param("bias", &[outputs], init));
        let adapter = match self.role {
            Role::Base => self.method.adapter(&b.adapter(), inputs, outputs),
            Role::Head | Role::Adapter | Role::Buffer => None,
        };
        Linear { weight, bias, adapter }
    }

    /// The weight of the linear layer here: packed where the method packs.
    fn linear_weight(&self, inputs: i64, outputs: i64, init: Init) -> Weight {
        let shape = [outputs, inputs];
        let packing = if self.role == Role::Base { self.method.packing(&self.path) } else { None };
        let Some(packing) = packing else { return Weight::Dense(self.param("weight", &shape, init)) };
        let name = self.full("weight");
        let packed = Nf4::quantize(&self.values(&name, &shape, init, |_| None), packing);
        let _ = self.register(name, packed.codes().shallow_clone(), Some(packed.clone()), false);
        Weight::Packed(packed)
    }

    /// Root-mean-square normalisation over `width` values.
    pub fn rms_norm(&self, name: &str, width: i64, eps: f64) -> RmsNorm {
        let weight = self.sub(name).param("weight", &[width], Init::Constant(1.0));
        let kind = weight.kind();
        RmsNorm { weight: wide(weight), eps, kind }
    }

    /// The same for frozen weights from which one was subtracted, as Gemma keeps them.
    pub fn rms_norm_of_one_and(&self, name: &str, width: i64, eps: f64) -> RmsNorm {
        let weight = self.sub(name).param("weight", &[width], Init::Constant(0.0));
        let _off = GradMode::off();
        let kind = weight.kind();
        RmsNorm { weight: wide(weight) + 1.0, eps, kind }
    }

    /// Layer normalisation over `width` values.
    pub fn layer_norm(&self, name: &str, width: i64, eps: f64) -> LayerNorm {
        let b = self.sub(name);
        LayerNorm {
            weight: b.param("weight", &[width], Init::Constant(1.0)),
            bias: b.param("bias", &[width], Init::Constant(0.0)),
            eps,
        }
    }

    /// A square convolution; fresh weights are PyTorch's default.
    pub fn conv2d(&self, name: &str, inputs: i64, outputs: i64, shape: ConvShape) -> Conv2d {
        let init = Init::Uniform { fan_in: inputs / shape.groups * shape.kernel * shape.kernel };
        self.conv2d_shaped(name, inputs, outputs, shape, LinearShape { weight: init, bias: Some(init) })
    }

    /// A square convolution with other fresh values.
    pub fn conv2d_shaped(&self, name: &str, inputs: i64, outputs: i64, shape: ConvShape, fresh: LinearShape) -> Conv2d {
        let b = self.sub(name);
        let ConvShape { kernel, stride, padding, groups, bias } = shape;
        Conv2d {
            weight: b.param("weight", &[outputs, inputs / groups, kernel, kernel], fresh.weight),
            bias: fresh.bias.filter(|_| bias).map(|init| b.param("bias", &[outputs], init)),
            stride,
            padding,
            groups,
        }
    }

    /// Batch normalisation over `channels`, with PyTorch's momentum of 0.1; `gain` is what fresh weights are.
    pub fn batch_norm2d(&self, name: &str, channels: i64, eps: f64, gain: f64) -> BatchNorm2d {
        let b = self.sub(name);
        let buffers = Self { role: Role::Buffer, ..b.clone() };
        BatchNorm2d {
            weight: b.param("weight", &[channels], Init::Constant(gain)),
            bias: b.param("bias", &[channels], Init::Constant(0.0)),
            running_mean: buffers.param("running_mean", &[channels], Init::Constant(0.0)),
            running_var: buffers.param("running_var", &[channels], Init::Constant(1.0)),
            batches: buffers.param("num_batches_tracked", &[], Init::Count),
            eps,
            momentum: 0.1,
            frozen: self.shared.borrow().frozen_statistics,
        }
    }

    /// A layer norm and the linear layer that reads it.
    pub fn norm_linear(&self, norm: &str, eps: f64, linear: &str, inputs: i64, outputs: i64) -> Part {
        self.norm_linear_shaped((NormKind::Layer, norm, eps), linear, [inputs, outputs], LinearShape::USUAL)
    }

    /// A norm, by kind, name and epsilon, and a linear layer of `widths` (inputs, outputs) that is not as most are.
    pub fn norm_linear_shaped(
        &self,
        (kind, norm, eps): (NormKind, &str, f64),
        linear: &str,
        widths: [i64; 2],
        shape: LinearShape,
    ) -> Part {
        let [inputs, outputs] = widths;
        self.part(linear, |b| NormLinear {
            norm: match kind {
                NormKind::Layer => Norm::Layer(b.layer_norm(norm, inputs, eps)),
                NormKind::Rms => Norm::Rms(b.rms_norm(norm, inputs, eps)),
            },
            linear: b.linear_shaped(linear, inputs, outputs, shape),
        })
    }

    /// A layer norm and the product that reads it, whose weight and bias are called `NAME_weight` and `NAME_bias`, as in
    /// PyTorch's `MultiheadAttention`. No method puts an adapter on it.
    pub fn norm_in_projection(&self, norm: &str, eps: f64, name: &str, inputs: i64, outputs: i64) -> Part {
        self.part(name, |b| NormLinear {
            norm: Norm::Layer(b.layer_norm(norm, inputs, eps)),
            linear: b.in_projection(name, inputs, outputs),
        })
    }

    /// A linear layer whose weight and bias are called `NAME_weight` and `NAME_bias`.
    pub fn in_projection(&self, name: &str, inputs: i64, outputs: i64) -> Linear {
        let LinearShape { weight, .. } = LinearShape::USUAL;
        Linear {
            weight: Weight::Dense(self.param(&format!("{name}_weight"), &[outputs, inputs], weight)),
            bias: Some(self.param(&format!("{name}_bias"), &[outputs], Init::Constant(0.0))),
            adapter: None,
        }
    }

    /// An activation and the linear layer that reads it.
    pub fn act_linear(&self, activation: Activation, linear: &str, inputs: i64, outputs: i64) -> Part {
        self.part(linear, |b| ActLinear { activation, linear: b.linear(linear, inputs, outputs) })
    }

    /// A batch norm, by name and epsilon, an activation, and the convolution of `channels` (inputs, outputs) that reads it.
    pub fn norm_act_conv(
        &self,
        (norm, eps): (&str, f64),
        activation: Activation,
        conv: &str,
        channels: [i64; 2],
        shape: ConvShape,
    ) -> Part {
        let [inputs, outputs] = channels;
        self.part(conv, |b| NormActConv {
            norm: b.batch_norm2d(norm, inputs, eps, 1.0),
            activation,
            conv: b.conv2d(conv, inputs, outputs, shape),
        })
    }

    /// A part of the block here that is cheap to run again, put together by `make`; `label` tells it from the block's
    /// others.
    pub fn part<B: Block + 'static>(&self, label: &str, make: impl FnOnce(&Self) -> B) -> Part {
        Part::new(self.block("", make), label)
    }

    /// A block called `name`, put together by `make`; the slot knows which of its parameters train.
    pub fn block<B: Block + 'static>(&self, name: &str, make: impl FnOnce(&Self) -> B) -> Slot {
        let b = self.sub(name);
        let first = self.shared.borrow().params.len();
        let block = make(&b);
        let shared = self.shared.borrow();
        let trainable =
            shared.params.iter().skip(first).filter(|p| p.trains).map(|p| p.tensor.shallow_clone()).collect();
        Slot::new(&b.path, Box::new(block), trainable)
    }

    /// The parameters of the finished model, and how they were loaded (`None` where there were no weights).
    ///
    /// # Errors
    /// Everything that went wrong on the way; weights that lack a part of the model (other than the head) among it.
    pub fn finish(self) -> Result<(Params, Option<LoadSummary>), BuildError> {
        let shared = &mut *self.shared.borrow_mut();
        let mut problems = std::mem::take(&mut shared.problems);
        let mut load = std::mem::take(&mut shared.load);
        let params = std::mem::take(&mut shared.params);
        problems.extend(unmatched_targets(self.method.targets(), &params));
        if let Some(weights) = &shared.weights {
            let lacking: Vec<&str> = params
                .iter()
                // How many batches a norm has seen says nothing about what the model computes, and old files lack it.
                .filter(|p| p.role == Role::Base || p.role == Role::Buffer && !p.name.ends_with("num_batches_tracked"))
                .filter(|p| load.missing.contains(&p.name))
                .map(|p| p.name.as_str())
                .collect();
            if !lacking.is_empty() {
                problems.push(format!(
                    "the weights lack {} of the model's {} tensors ({}{}); are they of another architecture?",
                    lacking.len(),
                    params.len(),
                    lacking[..lacking.len().min(3)].join(", "),
                    if lacking.len() > 3 { ", …" } else { "" }
                ));
            }
            load.unexpected = weights.names().filter(|n| params.get(n).is_none()).map(str::to_owned).collect();
        }
        if problems.is_empty() {
            Ok((params, shared.weights.is_some().then_some(load)))
        } else {
            Err(BuildError { problems })
        }
    }
}

/// Targets at which no adapter was put, with what they could have named.
fn unmatched_targets(targets: &[String], params: &Params) -> Vec<String> {
    let adapted = |target: &str| {
        let mut adapters = params.iter().filter(|p| p.role == Role::Adapter);
        adapters.any(|p| p.name.rsplit_once(".lora_").is_some_and(|(layer, _)| is_target(target, layer)))
    };
    let unmatched: Vec<&String> = targets.iter().filter(|t| !adapted(t)).collect();
    if unmatched.is_empty() {
        return Vec::new();
    }
    let linear = params.iter().filter(|p| p.role == Role::Base && p.shape().len() == 2);
    let mut names: Vec<&str> = linear.filter_map(|p| p.name.strip_suffix(".weight")?.rsplit('.').next()).collect();
    names.sort_unstable();
    names.dedup();
    let say = |target| format!("the target \"{target}\" matches no linear layer; expected one of {}", names.join(", "));
    unmatched.into_iter().map(say).collect()
}
