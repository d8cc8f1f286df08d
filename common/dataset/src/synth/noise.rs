//! Random numbers and noise that have the same bits on every machine.
//!
//! Only additions, multiplications, divisions, square roots, roundings and comparisons, in a written order: IEEE 754
//! fixes the result of each, and Rust neither reorders nor fuses them. Sines and their kind differ between standard
//! libraries, so waves are parabolas here and angles a polynomial; a texture needs no more. And the generator is our
//! own (SplitMix64), because a crate's distributions may change with its version.

use sha2::{Digest, Sha256};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Rng(u64);

impl Rng {
    /// Seeded with the hash of `parts`.
    pub(super) fn new(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new_with_prefix(b"fleet textures 1");
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        Self(digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A seed for lattice noise.
    pub(super) fn seed(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// Uniform in [0, 1), in steps that an f32 holds exactly.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 16_777_216.0
    }

    /// Uniform in [low, high).
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in low..=high.
    pub(super) fn whole(&mut self, low: u32, high: u32) -> u32 {
        low + (self.next() >> 32) as u32 % (high - low + 1)
    }

    /// A fair coin.
    pub(super) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// Roughly normal with standard deviation 1: the sum of three uniforms, which needs no logarithm.
    pub(super) fn bell(&mut self) -> f32 {
        (self.unit() + self.unit() + self.unit() - 1.5) * 2.0
    }

    /// A uniform direction, by rejection from the square.
    pub(super) fn direction(&mut self) -> (f32, f32) {
        loop {
            let (x, y) = (self.range(-1.0, 1.0), self.range(-1.0, 1.0));
            let square = x * x + y * y;
            if (0.01..1.0).contains(&square) {
                let length = square.sqrt();
                return (x / length, y / length);
            }
        }
    }
}

/// A random number in [0, 1) for a lattice point.
pub(super) fn lattice(seed: u32, x: i32, y: i32) -> f32 {
    let mut h = seed ^ (x as u32).wrapping_mul(0x85EB_CA6B) ^ (y as u32).wrapping_mul(0xC2B2_AE35).rotate_left(13);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    h ^= h >> 16;
    (h >> 8) as f32 / 16_777_216.0
}

/// Value noise in [0, 1): random lattice points, smoothly interpolated.
pub(super) fn value(seed: u32, x: f32, y: f32) -> f32 {
    let (column, row) = (x.floor(), y.floor());
    let (u, v) = (ease(x - column), ease(y - row));
    let (column, row) = (column as i32, row as i32);
    let top = mix(lattice(seed, column, row), lattice(seed, column + 1, row), u);
    let bottom = mix(lattice(seed, column, row + 1), lattice(seed, column + 1, row + 1), u);
    mix(top, bottom, v)
}

/// Octaves of value noise, each half as wide and half as strong as the one before; in [0, 1).
pub(super) fn fractal(seed: u32, x: f32, y: f32, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut scale) = (0.0, 0.0, 1.0);
    for octave in 0..octaves {
        sum += value(seed.wrapping_add(octave), x * scale, y * scale) / scale;
        weight += 1.0 / scale;
        scale *= 2.0;
    }
    sum / weight
}

/// From `a` at 0 to `b` at 1.
pub(super) fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// 0 below `low`, 1 above `high`, smooth between.
pub(super) fn step(low: f32, high: f32, x: f32) -> f32 {
    ease(((x - low) / (high - low)).clamp(0.0, 1.0))
}

fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// The part after the point, in [0, 1), of negative numbers too.
pub(super) fn fraction(x: f32) -> f32 {
    x - x.floor()
}

/// Distance to the nearest whole number: a triangle wave from 0 to 0.5.
pub(super) fn from_whole(x: f32) -> f32 {
    (x - (x + 0.5).floor()).abs()
}

/// A wave of period 1 in [-1, 1]: parabolas in place of a sine.
pub(super) fn wave(x: f32) -> f32 {
    let half = 2.0 * fraction(x);
    let t = fraction(half);
    let arc = 4.0 * t * (1.0 - t);
    if half < 1.0 { arc } else { -arc }
}

/// Bands of period 1 around whole numbers, `width` wide, with edges `soft` wide; in [0, 1].
pub(super) fn band(x: f32, width: f32, soft: f32) -> f32 {
    1.0 - step((width - soft) / 2.0, (width + soft) / 2.0, from_whole(x))
}

/// The angle of (x, y) in turns, in [0, 1), to within a thousandth.
pub(super) fn turns(x: f32, y: f32) -> f32 {
    let (low, high) = (x.abs().min(y.abs()), x.abs().max(y.abs()));
    let t = if high > 0.0 { low / high } else { 0.0 };
    // arctan on [0, 1] in turns, as a parabola through both ends.
    let eighth = t * (0.125 + 0.0434 * (1.0 - t));
    let quarter = if y.abs() > x.abs() { 0.25 - eighth } else { eighth };
    let half = if x < 0.0 { 0.5 - quarter } else { quarter };
    if y < 0.0 { fraction(1.0 - half) } else { half }
}

/// The cell and the eight around it.
pub(super) fn neighbours(column: i32, row: i32) -> impl Iterator<Item = (i32, i32)> {
    (-1..=1).flat_map(move |j| (-1..=1).map(move |i| (column + i, row + j)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_is_splitmix() {
        // The reference implementation's first outputs for seed 1234567.
        let mut rng = Rng(1_234_567);
        assert_eq!([rng.next(), rng.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn parts_do_not_run_together() {
        let first = |parts: &[&[u8]]| Rng::new(parts).next();
        assert_ne!(first(&[b"ab", b"c"]), first(&[b"a", b"bc"]));
        assert_eq!(first(&[b"ab", b"c"]), first(&[b"ab", b"c"]));
    }

    #[test]
    fn turns_are_angles() {
        for step in 0..1000 {
            let angle = (step as f64 + 0.5) / 1000.0;
            let (sin, cos) = (angle * std::f64::consts::TAU).sin_cos();
            let found = f64::from(turns(cos as f32 * 3.0, sin as f32 * 3.0));
            assert!((found - angle).abs() < 0.001, "{angle}: {found}");
        }
        assert_eq!(turns(0.0, 0.0), 0.0);
    }

    #[test]
    fn waves_and_bands_have_their_period_on_both_sides_of_zero() {
        for start in [-2.0, -1.0, 0.0, 3.0] {
            assert_eq!([0.0, 0.25, 0.5, 0.75].map(|x| wave(start + x)), [0.0, 1.0, 0.0, -1.0]);
            assert_eq!([0.0, 0.125, 0.5, 0.875].map(|x| band(start + x, 0.25, 0.125)), [1.0, 0.5, 0.0, 0.5]);
        }
    }

    #[test]
    fn noise_meets_its_lattice_and_is_continuous_across_it() {
        for (x, y) in [(-3, 2), (0, 0), (5, -7)] {
            assert_eq!(value(9, x as f32, y as f32), lattice(9, x, y));
            let (below, above) = (value(9, x as f32 - 1e-4, y as f32), value(9, x as f32 + 1e-4, y as f32));
            assert!((below - above).abs() < 1e-4);
        }
        let mean = (0..100).flat_map(|x| (0..100).map(move |y| lattice(9, x, y))).sum::<f32>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.012, "{mean}"); // four standard deviations
    }
}
