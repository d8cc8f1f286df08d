//! The two code books, and packing with the first.

use std::sync::LazyLock;

use tch::{Device, Kind, Tensor};

/// The 16 values of 4-bit NormalFloat, ascending: quantiles of N(0, 1) scaled into [-1, 1], with an exact zero
/// (arXiv 2305.14314, appendix E; the digits are bitsandbytes').
pub const NF4_CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The 256 values of the signed 8-bit dynamic map, ascending (Dettmers, arXiv 1511.04561; bitsandbytes'
/// `create_dynamic_map`): for each of seven powers of ten the centres of 2^i equal parts of [0.1, 1], with both signs,
/// and 0 and 1. PyTorch's own `linspace` draws the parts, because the last bit of a code depends on how it rounds.
pub static DYNAMIC_CODES: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut codes = vec![0.0, 1.0];
    for i in 0..7 {
        let parts = 1i64 << i;
        let boundaries = Tensor::linspace(0.1, 1.0, parts + 1, (Kind::Float, Device::Cpu));
        let centres = (boundaries.narrow(0, 0, parts) + boundaries.narrow(0, 1, parts)) / 2.0;
        let centres = Vec::<f32>::try_from(centres * 10f64.powi(i - 6)).expect("f32 on the CPU");
        codes.extend(centres.iter().flat_map(|c| [*c, -*c]));
    }
    codes.sort_by(f32::total_cmp);
    codes.try_into().expect("2·(1 + 2 + … + 64) + 2 = 256 codes")
});

/// Halfway between neighbouring codes.
static MIDDLES: LazyLock<[f32; 15]> =
    LazyLock::new(|| std::array::from_fn(|i| (NF4_CODES[i] + NF4_CODES[i + 1]) / 2.0));

/// The smallest scale that is divided by: a block of zeros stays one.
const LEAST_SCALE: f32 = 1e-38;

/// The nearest code of a value; exactly in the middle, the lower.
fn nearest(value: f32) -> u8 {
    MIDDLES.partition_point(|middle| value > *middle) as u8
}

/// Steps of [`DYNAMIC_OF_STEP`] from 0 to 1.
const STEPS: f32 = 32_767.5;

/// The nearest of the 256 codes to each multiple of 1 / [`STEPS`] from -1 to 1.
static DYNAMIC_OF_STEP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let codes = &*DYNAMIC_CODES;
    let nearest = |value: f32| {
        let above = codes.partition_point(|code| *code < value).clamp(1, 255);
        let nearer = (codes[above] - value).abs() < (value - codes[above - 1]).abs();
        if nearer { above as u8 } else { above as u8 - 1 }
    };
    (0..=65_535u16).map(|step| nearest(f32::from(step) / STEPS - 1.0)).collect()
});

/// The code of a value in [-1, 1]. bitsandbytes' CPU kernel (0.50.2) first rounds the value to one of 65,536 steps, so
/// that near the middle between two codes, and near zero, it is not always the nearest; ours does the same, or the same
/// weights would mean other numbers here.
pub(super) fn dynamic_code(value: f32) -> u8 {
    DYNAMIC_OF_STEP[((value + 1.0) * STEPS).round().clamp(0.0, 65_535.0) as usize]
}

/// Codes two in a byte, and the scale of each block. Where the last code has no neighbour, the code of zero stands
/// beside it.
pub(super) fn pack(values: &[f32], block: usize) -> (Vec<u8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(values.len());
    let mut scales = Vec::with_capacity(values.len().div_ceil(block));
    for values in values.chunks(block) {
        let absmax = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scale = absmax.max(LEAST_SCALE);
        if values.len() == block {
            // Multiplied by the reciprocal, as the reference does with whole blocks: a division would round otherwise.
            codes.extend(values.iter().map(|x| nearest(x * (1.0 / scale))));
            scales.push(absmax);
        } else {
            codes.extend(values.iter().map(|x| nearest(x / scale)));
            scales.push(scale);
        }
    }
    let packed = codes.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(nearest(0.0))).collect();
    (packed, scales)
}

/// The two values that each byte stands for.
pub(super) fn pairs() -> [f32; 512] {
    std::array::from_fn(|i| {
        let byte = i / 2;
        NF4_CODES[if i % 2 == 0 { byte >> 4 } else { byte & 15 }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_between_two_codes_takes_the_lower() {
        for (i, middle) in MIDDLES.iter().enumerate() {
            assert_eq!(usize::from(nearest(*middle)), i);
            assert_eq!(usize::from(nearest(middle.next_up())), i + 1);
            assert_eq!(usize::from(nearest(NF4_CODES[i])), i);
        }
        assert_eq!((nearest(-1.0), nearest(1.0), nearest(0.0)), (0, 15, 7));
    }

    #[test]
    fn scales_get_the_code_of_the_nearest_step() {
        // A value of a code is at most a step and a half from where that code begins to be chosen.
        for step in -1000..=1000 {
            let value = step as f32 / 1000.0;
            let found = DYNAMIC_CODES[usize::from(dynamic_code(value))];
            let least = DYNAMIC_CODES.iter().map(|c| (c - value).abs()).fold(f32::MAX, f32::min);
            assert!((found - value).abs() <= least + 1.0 / STEPS, "{value}");
        }
        // The kernel's own borders, found by bisection: the middle of codes 210 and 211 is 0.38125.
        assert_eq!((dynamic_code(0.381_261_8), dynamic_code(0.381_262_1)), (210, 211));
        assert_eq!((dynamic_code(0.240_634_6), dynamic_code(0.240_634_9)), (200, 201));
        assert_eq!((dynamic_code(0.662_485_5), dynamic_code(0.662_485_9)), (230, 231));
    }

    #[test]
    fn blocks_straddle_rows_and_the_last_may_be_short() {
        let values: Vec<f32> = (0..7).map(|i| i as f32 - 3.0).collect();
        let (packed, scales) = pack(&values, 4);
        assert_eq!((packed.len(), scales), (4, vec![3.0, 3.0]));
        assert_eq!(packed[0] >> 4, 0, "-3 of 3 is the lowest code");
        assert_eq!(packed[3], 15 << 4 | 7, "3 of 3 is the highest; beside it stands zero");
        assert_eq!(pack(&[0.0; 2], 2), (vec![0x77], vec![0.0]));
    }
}
