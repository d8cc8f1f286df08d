//! Texture set A: bands, lattices of simple shapes, and plain noise.
//!
//! One unit of `x` and `y` is one motif; the painter rotates, scales and shifts.

use super::noise::{Rng, band, fractal, lattice, neighbours, step, value, wave};
use super::{Family, Field};

pub(super) const FAMILIES: [Family; 8] = [
    Family { name: "checkered", field: checkered },
    Family { name: "clouded", field: clouded },
    Family { name: "dotted", field: dotted },
    Family { name: "fibrous", field: fibrous },
    Family { name: "gridded", field: gridded },
    Family { name: "speckled", field: speckled },
    Family { name: "striped", field: striped },
    Family { name: "wavy", field: wavy },
];

/// Squares of two colours in turn.
fn checkered(rng: &mut Rng) -> Field {
    let soft = rng.range(0.1, 0.25);
    Box::new(move |x, y| {
        let (a, b) = (band(x / 2.0, 0.5, soft / 2.0), band(y / 2.0, 0.5, soft / 2.0));
        a + b - 2.0 * a * b
    })
}

/// Soft noise of several scales, alike in all directions.
fn clouded(rng: &mut Rng) -> Field {
    let (seed, octaves, sharp) = (rng.seed(), rng.whole(2, 4), rng.range(0.18, 0.4));
    Box::new(move |x, y| step(0.5 - sharp, 0.5 + sharp, fractal(seed, x * 0.6, y * 0.6, octaves)))
}

/// Round dots on a square lattice, or one with every other row shifted.
fn dotted(rng: &mut Rng) -> Field {
    let (radius, soft) = (rng.range(0.26, 0.38), rng.range(0.08, 0.18));
    let shift = if rng.coin() { 0.5 } else { 0.0 };
    Box::new(move |x, y| {
        let row = (y + 0.5).floor();
        let x = x + shift * (row as i32 & 1) as f32;
        let (dx, dy) = (x - (x + 0.5).floor(), y - row);
        1.0 - step(radius - soft, radius + soft, (dx * dx + dy * dy).sqrt())
    })
}

/// Noise drawn out in one direction.
fn fibrous(rng: &mut Rng) -> Field {
    let (seed, stretch, sharp) = (rng.seed(), rng.range(5.0, 9.0), rng.range(0.15, 0.3));
    Box::new(move |x, y| step(0.5 - sharp, 0.5 + sharp, fractal(seed, x / stretch, y * 1.6, 3)))
}

/// Thin lines in two directions.
fn gridded(rng: &mut Rng) -> Field {
    let (width, soft, aspect) = (rng.range(0.16, 0.28), rng.range(0.08, 0.14), rng.range(0.75, 1.0));
    Box::new(move |x, y| band(x * aspect, width, soft).max(band(y, width, soft)))
}

/// Spots of random place and size, some places without.
fn speckled(rng: &mut Rng) -> Field {
    let (seed, density, soft) = (rng.seed(), rng.range(0.6, 0.85), rng.range(0.06, 0.12));
    Box::new(move |x, y| {
        let (x, y) = (x * 1.3, y * 1.3);
        let (column, row) = (x.floor() as i32, y.floor() as i32);
        let mut most: f32 = 0.0;
        for (i, j) in neighbours(column, row) {
            if lattice(seed ^ 1, i, j) < density {
                let dx = x - (i as f32 + lattice(seed ^ 2, i, j));
                let dy = y - (j as f32 + lattice(seed ^ 3, i, j));
                let radius = 0.15 + 0.3 * lattice(seed ^ 4, i, j);
                most = most.max(1.0 - step(radius - soft, radius + soft, (dx * dx + dy * dy).sqrt()));
            }
        }
        most
    })
}

/// Straight bands.
fn striped(rng: &mut Rng) -> Field {
    let (width, soft) = (rng.range(0.35, 0.65), rng.range(0.1, 0.35));
    Box::new(move |_, y| band(y, width, soft))
}

/// Bands that swing from side to side.
fn wavy(rng: &mut Rng) -> Field {
    let (width, soft) = (rng.range(0.35, 0.65), rng.range(0.1, 0.3));
    let (height, length, seed) = (rng.range(0.35, 0.6), rng.range(2.2, 3.2), rng.seed());
    Box::new(move |x, y| band(y + height * wave(x / length + 0.3 * value(seed, x * 0.2, y * 0.2)), width, soft))
}
