//! Texture set B: cells with walls, curves around a centre, and things laid over and under each other.
//!
//! One unit of `x` and `y` is one motif; the painter rotates, scales and shifts.

use super::noise::{Rng, band, fractal, from_whole, lattice, neighbours, step, turns};
use super::{Family, Field};

pub(super) const FAMILIES: [Family; 8] = [
    Family { name: "bricked", field: bricked },
    Family { name: "cracked", field: cracked },
    Family { name: "honeycombed", field: honeycombed },
    Family { name: "marbled", field: marbled },
    Family { name: "ringed", field: ringed },
    Family { name: "spiralled", field: spiralled },
    Family { name: "woven", field: woven },
    Family { name: "zigzagged", field: zigzagged },
];

/// Rows of long bricks, every other row shifted, and mortar between.
fn bricked(rng: &mut Rng) -> Field {
    let (long, mortar, soft) = (rng.range(1.8, 2.4), rng.range(0.14, 0.24), rng.range(0.06, 0.12));
    let (shift, seed, shade) = (rng.range(0.4, 0.6), rng.seed(), rng.range(0.0, 0.45));
    Box::new(move |x, y| {
        let row = (y + 0.5).floor();
        let x = x / long + shift * (row as i32 & 1) as f32;
        let walls = band(x + 0.5, mortar / long, soft / long).max(band(y + 0.5, mortar, soft));
        let brick = 1.0 - shade * lattice(seed, (x + 0.5).floor() as i32, row as i32);
        brick * (1.0 - walls)
    })
}

/// The edges between the cells of scattered points.
fn cracked(rng: &mut Rng) -> Field {
    let (seed, width, soft) = (rng.seed(), rng.range(0.06, 0.14), rng.range(0.08, 0.14));
    let (jitter, shade) = (rng.range(0.7, 0.9), rng.range(0.0, 0.4));
    Box::new(move |x, y| {
        let (x, y) = (x * 0.75, y * 0.75);
        let (mut first, mut second, mut owner) = (f32::MAX, f32::MAX, 0.0);
        for (i, j) in neighbours(x.floor() as i32, y.floor() as i32) {
            let dx = x - (i as f32 + 0.5 + jitter * (lattice(seed, i, j) - 0.5));
            let dy = y - (j as f32 + 0.5 + jitter * (lattice(seed ^ 1, i, j) - 0.5));
            let distance = (dx * dx + dy * dy).sqrt();
            if distance < first {
                (first, second, owner) = (distance, first, lattice(seed ^ 2, i, j));
            } else if distance < second {
                second = distance;
            }
        }
        (1.0 - shade * owner) * step(width - soft / 2.0, width + soft / 2.0, second - first)
    })
}

/// Hexagonal cells and the walls between them.
fn honeycombed(rng: &mut Rng) -> Field {
    let (wall, soft) = (rng.range(0.09, 0.15), rng.range(0.05, 0.1));
    Box::new(move |x, y| {
        // The nearest of the centres of two interleaved rectangular lattices, √3 high.
        const HIGH: f32 = 1.732_050_8;
        let offset = |shift: f32| {
            let dx = x - ((x - shift + 0.5).floor() + shift);
            let dy = y - (((y / HIGH) - shift + 0.5).floor() + shift) * HIGH;
            (dx, dy)
        };
        let (p, q) = (offset(0.0), offset(0.5));
        let (dx, dy) = if p.0 * p.0 + p.1 * p.1 < q.0 * q.0 + q.1 * q.1 { p } else { q };
        // Distance to the wall of a hexagon of inner radius 0.5 with upright sides.
        let inside = 0.5 - dx.abs().max(dx.abs() * 0.5 + dy.abs() * (HIGH / 2.0));
        step(wall - soft, wall + soft, inside)
    })
}

/// Winding veins, where noise crosses its middle.
fn marbled(rng: &mut Rng) -> Field {
    let (seed, veins, turbulence) = (rng.seed(), rng.range(0.25, 0.4), rng.range(3.0, 4.5));
    let soft = rng.range(0.25, 0.45);
    Box::new(move |x, y| {
        let bent = y * veins + turbulence * (fractal(seed, x * 0.35, y * 0.35, 4) - 0.5);
        step(0.0, soft, from_whole(bent))
    })
}

/// Rings around a point in or near the image.
fn ringed(rng: &mut Rng) -> Field {
    let (width, soft) = (rng.range(0.35, 0.65), rng.range(0.1, 0.35));
    Box::new(move |x, y| band((x * x + y * y).sqrt(), width, soft))
}

/// Arms that wind around a point in or near the image.
fn spiralled(rng: &mut Rng) -> Field {
    let (width, soft) = (rng.range(0.4, 0.6), rng.range(0.15, 0.35));
    let (arms, tight) = (rng.whole(4, 6) as f32, rng.range(0.35, 0.55));
    let sign = if rng.coin() { 1.0 } else { -1.0 };
    Box::new(move |x, y| band((x * x + y * y).sqrt() * tight + sign * arms * turns(x, y), width, soft))
}

/// A basket: squares of a few parallel strands, along and across in turn.
fn woven(rng: &mut Rng) -> Field {
    let (strands, size) = (rng.whole(2, 3) as f32, rng.range(1.7, 2.1));
    let (width, soft) = (rng.range(0.6, 0.75), rng.range(0.2, 0.4));
    Box::new(move |x, y| {
        let (x, y) = (x / size, y / size);
        let along = (x.floor() as i32 + y.floor() as i32) & 1 == 0;
        let (along, across) = if along { (x, y) } else { (y, x) };
        // Strands dip under their neighbours at both ends.
        let shade = 1.0 - 0.5 * step(0.3, 0.5, from_whole(along + 0.5));
        shade * band(across * strands + 0.5, width, soft)
    })
}

/// Bands with sharp corners.
fn zigzagged(rng: &mut Rng) -> Field {
    let (width, soft) = (rng.range(0.4, 0.6), rng.range(0.1, 0.25));
    let (height, length) = (rng.range(0.7, 1.2), rng.range(1.6, 2.4));
    Box::new(move |x, y| band(y + 2.0 * height * from_whole(x / length), width, soft))
}
