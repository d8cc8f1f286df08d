//! Weights from a formula, so that a full-size reference needs no stored ones.
//!
//! For element i of the tensor NAME, splitmix64 (Steele et al., OOPSLA 2014) started at the FNV-1a hash of NAME gives a
//! number u in [0, 1) of 24 bits, and t = 2u − 1. What becomes of it depends on the name, in f64, rounded once to f32;
//! the rules are in [`value`], the first that fits counts.

use tch::Tensor;

/// Names that are tables of positions or learned tokens.
const TOKENS: [&str; 7] =
    ["cls_token", "class_embedding", "pos_embed", "position_embedding", "positional_embedding", "mask_token", "probe"];

/// FNV-1a, 64 bits.
fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// `n` numbers in [0, 1) that follow from `name`.
fn unit(name: &str, n: usize) -> impl Iterator<Item = f64> {
    let start = fnv(name);
    (1..=n as u64).map(move |i| {
        let mut z = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 * (-24f64).exp2()
    })
}

/// The values of the tensor `name`.
pub(super) fn value(name: &str, shape: &[i64]) -> Tensor {
    let n = shape.iter().product::<i64>() as usize;
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let flat = shape.len() == 1;
    let columns = shape.get(1).copied().unwrap_or(1).max(1) as usize;
    let fan_in = shape.iter().skip(1).product::<i64>() as f64;
    let t = |u: f64| 2.0 * u - 1.0;
    let rule: Box<dyn Fn(usize, f64) -> f64> = match leaf {
        "num_batches_tracked" => return Tensor::zeros(shape, (tch::Kind::Int64, tch::Device::Cpu)),
        "running_var" => Box::new(|_, u| 0.5 + u),
        "running_mean" => Box::new(move |_, u| 0.1 * t(u)),
        "A_log" | "A_b_log" => Box::new(move |i, u| ((i % columns + 1) as f64).ln() + 0.1 * t(u)),
        "D" | "D_b" => Box::new(move |_, u| 1.0 + 0.2 * t(u)),
        _ if name.ends_with("dt_proj.bias") || name.ends_with("dt_proj_b.bias") => {
            Box::new(move |_, u| -4.0 + 0.5 * t(u))
        }
        "logit_scale" => Box::new(|_, _| 3.0),
        "logit_bias" => Box::new(|_, _| -2.0),
        "gamma" | "gamma_1" | "gamma_2" | "lambda1" => Box::new(move |_, u| 0.5 + 0.2 * t(u)),
        "weight" if flat => Box::new(move |_, u| 1.0 + 0.2 * t(u)),
        _ if flat && leaf.contains("bias") => Box::new(move |_, u| 0.1 * t(u)),
        "attention_biases" => Box::new(move |_, u| 0.3 * t(u)),
        _ if TOKENS.iter().any(|token| name.contains(token)) => Box::new(move |_, u| 0.3 * t(u)),
        _ => {
            let bound = (3.0 / fan_in).sqrt();
            Box::new(move |_, u| t(u) * bound)
        }
    };
    let values: Vec<f32> = unit(name, n).enumerate().map(|(i, u)| rule(i, u) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Images (batch, 3, size, size): 1.5·t of the name "input".
pub(super) fn images(prefix: &str, batch: i64, size: i64) -> Tensor {
    let shape = [batch, 3, size, size];
    let n = shape.iter().product::<i64>() as usize;
    let values: Vec<f32> = unit(&format!("{prefix}input"), n).map(|u| (1.5 * (2.0 * u - 1.0)) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published test vectors of the two functions.
    #[test]
    fn hash_and_generator_are_the_named_ones() {
        assert_eq!(fnv(""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv("a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv("foobar"), 0x8594_4171_F739_67E8);
        // splitmix64 from state 0 begins with 0xE220A8397B1DCDAF; the state here is the hash, so its upper 24 bits are
        // compared on a name whose hash is known.
        let first = unit("a", 1).next().expect("one");
        let mut z = 0xAF63_DC4C_8601_EC8Cu64.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        assert_eq!(first, ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24));
    }
}
