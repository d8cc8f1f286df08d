//! Fresh parameters, each against the distribution that its reference draws it from: timm's `VisionTransformer` and
//! `TinyVit`, HF PEFT's LoRA and AdaLoRA. Moments within five standard errors, bounds, and no two alike.

mod support;

use std::collections::HashMap;

use fleet_common::plan::MethodSettings;
use fleet_common::spec::Backbone;
use fleet_worker::models;
use fleet_worker::nn::{Builder, Param, Params, Seed};
use fleet_worker::peft;
use serde_json::json;
use support::one_at_a_time;
use tch::{Device, Kind, Tensor};

/// Standard errors that a moment may be off.
const ERRORS: f64 = 5.0;

/// What a reference draws from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Drawn {
    /// One value everywhere.
    All(f64),
    /// N(0, σ²). Truncated at ±2 where σ = 0.02, which leaves the moments as they are.
    Normal(f64),
    /// U(-b, b).
    Uniform(f64),
    /// A normal distribution cut off at two deviations, of deviation σ after that.
    Truncated(f64),
    /// ln 1, ln 2, … in each row.
    Logarithms,
    /// What softplus makes log-uniform in [0.001, 0.1].
    StepWidths,
}

/// What the parameter of a name and shape is drawn from.
type Rule = fn(&str, &[i64]) -> Drawn;

fn build(backbone: Backbone, method: &MethodSettings) -> Params {
    let b = Builder::new(peft::method(method), None, Seed::root(3), Device::Cpu, Kind::Float);
    let _ = models::build(backbone, backbone.image_size(), 100, &b).expect("a backbone that is trained");
    b.finish().expect("builds").0
}

/// PyTorch's default for a layer with so many inputs per output.
fn torch_default(inputs: i64) -> Drawn {
    Drawn::Uniform(1.0 / (inputs as f64).sqrt())
}

/// timm's `VisionTransformer` under its default `weight_init`: every linear layer, the head among them, truncated
/// normal with zero bias; the convolution of the patches is left as PyTorch makes it, its bias too.
fn vit(name: &str, shape: &[i64]) -> Drawn {
    let patch = 3 * 16 * 16;
    match name {
        "cls_token" => Drawn::Normal(1e-6),
        "pos_embed" => Drawn::Normal(0.02),
        "patch_embed.proj.weight" | "patch_embed.proj.bias" => torch_default(patch),
        _ if name.ends_with(".weight") && shape.len() == 2 => Drawn::Normal(0.02),
        _ if name.contains("norm") && name.ends_with(".weight") => Drawn::All(1.0),
        _ if name.ends_with(".bias") => Drawn::All(0.0),
        _ => panic!("no rule for {name}"),
    }
}

/// timm's `TinyVit`: linear layers as above, convolutions as PyTorch makes them, the last norm of an inverted
/// bottleneck with a gain of zero.
fn tiny_vit(name: &str, shape: &[i64]) -> Drawn {
    let bottleneck = name.starts_with("stages.0.blocks.");
    match name.rsplit('.').next().expect("a name") {
        "attention_biases" | "running_mean" | "num_batches_tracked" | "bias" => Drawn::All(0.0),
        "running_var" => Drawn::All(1.0),
        "weight" if shape.len() == 4 => torch_default(shape[1..].iter().product()),
        "weight" if shape.len() == 2 => Drawn::Normal(0.02),
        "weight" if bottleneck && name.ends_with("conv3.bn.weight") => Drawn::All(0.0),
        "weight" if name.contains("bn.") || name.contains("norm.") => Drawn::All(1.0),
        _ => panic!("no rule for {name}"),
    }
}

/// Where a Vim's parameters are drawn from: `VisionMamba` and its mixer. The patches' convolution is drawn with a
/// variance of one over its inputs, the special step widths are tested apart.
fn vim(name: &str, shape: &[i64]) -> Drawn {
    match name {
        "cls_token" | "pos_embed" | "head.weight" => return Drawn::Normal(0.02),
        "patch_embed.proj.weight" => return Drawn::Truncated(1.0 / (3.0f64 * 16.0 * 16.0).sqrt()),
        "patch_embed.proj.bias" | "head.bias" => return Drawn::All(0.0),
        _ => {}
    }
    let (depth, taps, inner) = (24, 4, 768);
    match name.split_once("mixer.").map(|(_, part)| part) {
        None if name.contains("norm") => Drawn::All(1.0),
        Some("A_log" | "A_b_log") => Drawn::Logarithms,
        Some("D" | "D_b") => Drawn::All(1.0),
        Some("dt_proj.bias") => Drawn::StepWidths,
        Some("dt_proj_b.bias") => Drawn::All(0.0),
        Some("conv1d.weight" | "conv1d.bias" | "conv1d_b.weight" | "conv1d_b.bias") => torch_default(taps),
        Some("out_proj.weight") => torch_default(inner * depth),
        Some("in_proj.weight" | "x_proj.weight" | "x_proj_b.weight" | "dt_proj.weight" | "dt_proj_b.weight") => {
            torch_default(shape[1])
        }
        _ => panic!("no rule for {name}"),
    }
}

/// `MambaVision`, which begins all linear layers alike.
fn mamba_vision(name: &str, shape: &[i64]) -> Drawn {
    match name.rsplit('.').next().expect("a name") {
        "A_log" => Drawn::Logarithms,
        "D" | "running_var" => Drawn::All(1.0),
        "running_mean" | "num_batches_tracked" => Drawn::All(0.0),
        "weight" if shape.len() == 2 => Drawn::Normal(0.02),
        "weight" if shape.len() > 2 => torch_default(shape[1..].iter().product()),
        "weight" => Drawn::All(1.0),
        // The convolutions of the first levels keep PyTorch's biases.
        "bias" if name.ends_with("conv1.bias") || name.ends_with("conv2.bias") => torch_default(9 * shape[0]),
        "bias" => Drawn::All(0.0),
        _ => panic!("no rule for {name}"),
    }
}

/// Asserts that `p` looks drawn from there.
fn looks(p: &Param, drawn: Drawn) {
    let name = &p.name;
    let x = p.values().to_kind(Kind::Double);
    let mean = |x: &Tensor| x.mean(Kind::Double).double_value(&[]);
    let (n, largest) = (x.numel() as f64, x.abs().max().double_value(&[]));
    // Deviation, fourth moment over the squared second, bound.
    let (sigma, kurtosis, bound) = match drawn {
        Drawn::Logarithms => {
            let row = Tensor::arange_start(1, x.size()[1] + 1, (Kind::Double, Device::Cpu)).log();
            return assert!((&x - row).abs().max().double_value(&[]) < 1e-6, "{name} is not ln 1, ln 2, … in each row");
        }
        Drawn::StepWidths => {
            let widths = x.softplus().log();
            let (low, high) = (0.001f64.ln(), 0.1f64.ln());
            let (least, most) = (widths.min().double_value(&[]), widths.max().double_value(&[]));
            assert!(low - 1e-4 <= least && most <= high + 1e-4, "{name}: step widths from e^{least} to e^{most}");
            // Uniform in the logarithm: mean in the middle, deviation of the width over √12.
            let sigma = (high - low) / 12f64.sqrt();
            let off = (mean(&widths) - (low + high) / 2.0).abs() / (sigma / n.sqrt());
            let spread = widths.std(true).double_value(&[]) / sigma;
            return assert!(
                off < ERRORS && (0.9..1.1).contains(&spread),
                "{name}: {off} errors off, {spread} of the spread"
            );
        }
        // N(0, 1) cut off at ±2 has the variance 0.7737 and the kurtosis 2.3655 (its moments by parts).
        Drawn::Truncated(sigma) => (sigma, 2.3655, 2.0 * sigma / 0.879_625_661),
        Drawn::All(value) => {
            return assert!(x.eq(value).all().int64_value(&[]) == 1, "{name} is not {value} throughout");
        }
        Drawn::Normal(sigma) => (sigma, 3.0, 6.5 * sigma),
        Drawn::Uniform(b) => (b / 3f64.sqrt(), 1.8, b),
    };
    let squares = x.square();
    let (second, fourth) = (mean(&squares), mean(&squares.square()));
    let near = |what: &str, found: f64, expected: f64, error: f64| {
        let off = (found - expected).abs() / error;
        assert!(off < ERRORS, "{name}: {what} {found:.4e}, expected {expected:.4e}, is {off:.1} standard errors off");
    };
    near("mean", mean(&x), 0.0, sigma / n.sqrt());
    // A sample's deviation has the standard error σ·√((kurtosis − 1) / 4n), a normal one's kurtosis √(24 / n).
    near("deviation", second.sqrt(), sigma, sigma * ((kurtosis - 1.0) / (4.0 * n)).sqrt());
    near("kurtosis", fourth / second.powi(2), kurtosis, (24.0 / n).sqrt());
    assert!(largest <= bound * (1.0 + 1e-6), "{name}: {largest} is beyond {bound}");
}

/// Asserts that parameters that are drawn begin with values that no other begins with.
fn differ<'a>(params: impl Iterator<Item = &'a Param>) {
    let mut seen = HashMap::new();
    for p in params {
        let first = Vec::<f32>::try_from(p.values().flatten(0, -1).narrow(0, 0, 4)).expect("values");
        // In steps of the deviation, or the same uniform numbers with another bound would look different.
        let scale = first.iter().fold(0f32, |most, x| most.max(x.abs()));
        let pattern: Vec<i64> = first.iter().map(|x| (f64::from(x / scale) * 1e6).round() as i64).collect();
        if let Some(other) = seen.insert(pattern, p.name.clone()) {
            panic!("{} and {other} begin with the same numbers: {first:?}", p.name);
        }
    }
}

#[test]
fn backbones_start_as_their_references_do() {
    let _alone = one_at_a_time();
    for (backbone, rule) in [
        (Backbone::VitSmallPatch16, vit as Rule),
        (Backbone::TinyVit5m, tiny_vit),
        (Backbone::VimSmall, vim),
        (Backbone::MambaVisionT, mamba_vision),
    ] {
        let params = build(backbone, &MethodSettings::Full);
        params.iter().for_each(|p| looks(p, rule(&p.name, &p.shape())));
        differ(params.iter().filter(|p| !matches!(rule(&p.name, &p.shape()), Drawn::All(_) | Drawn::Logarithms)));
    }
}

#[test]
fn adapters_start_as_pefts_do_and_change_nothing_yet() {
    let _alone = one_at_a_time();
    let lora = json!({ "name": "lora", "rank": 8, "alpha": 16.0, "dropout": 0.0 });
    let adalora = json!({ "name": "adalora", "init_rank": 12, "target_rank": 8, "alpha": 16.0, "dropout": 0.0,
        "tinit": 1, "tfinal": 1, "delta_t": 1, "beta1": 0.85, "beta2": 0.85, "orthogonal_weight": 0.5 });
    for backbone in [Backbone::VitSmallPatch16, Backbone::TinyVit5m] {
        for (settings, ada) in [(&lora, false), (&adalora, true)] {
            let mut settings = settings.clone();
            settings["targets"] = json!(backbone.lora_targets());
            let method: MethodSettings = serde_json::from_value(settings).expect("settings");
            let params = build(backbone, &method);
            let mut drawn = Vec::new();
            for (p, (layer, part)) in params.iter().filter_map(|p| Some((p, p.name.split_once(".lora_")?))) {
                let expected = match (ada, part) {
                    // Kaiming-uniform with a = √5 is PyTorch's default.
                    (false, "A.weight") => torch_default(p.shape()[1]),
                    (false, "B.weight") | (true, "E") => Drawn::All(0.0),
                    (true, "A" | "B") => Drawn::Normal(0.02),
                    _ => panic!("no rule for {}", p.name),
                };
                looks(p, expected);
                if !matches!(expected, Drawn::All(_)) {
                    drawn.push(p);
                }
                let update = peft::method(&method).update(&params, layer).expect("an adapter");
                assert_eq!(update.abs().max().double_value(&[]), 0.0, "{layer} is changed from the start");
            }
            let per_layer = if ada { 2 } else { 1 };
            let layers = params.iter().filter(|p| p.name.contains(".lora_B")).count();
            assert!(layers > 30 && drawn.len() == per_layer * layers, "{} of {layers} layers", drawn.len());
            differ(drawn.into_iter());
        }
    }
}
