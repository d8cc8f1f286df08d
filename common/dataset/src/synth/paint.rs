//! A family's field → an image: placed, lit and coloured at random, so that nothing but the structure tells the class.

use image::{Rgb, RgbImage};

use super::Family;
use super::noise::{Rng, mix, value};

/// Paints one image of at most `size` pixels on a side.
pub(super) fn paint(family: &Family, rng: &mut Rng, size: u32) -> RgbImage {
    // Sides differ by up to a sixth, so that readers must resize and crop.
    let (width, height) = (rng.whole(size - size / 6, size), rng.whole(size - size / 6, size));
    let field = (family.field)(rng);
    let place = Placement::new(rng, size as f32);
    let colours = Colours::new(rng);
    let noise = rng.range(2.0, 9.0);
    RgbImage::from_fn(width, height, |column, row| {
        // Two by two samples per pixel: fine structures would otherwise alias.
        let mut level = 0.0;
        for (dx, dy) in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)] {
            let (x, y) = place.at(column as f32 + dx, row as f32 + dy);
            level += field(x, y) / 4.0;
        }
        let (u, v) = (column as f32 / size as f32 - 0.5, row as f32 / size as f32 - 0.5);
        let colour = colours.at(level, u, v);
        // One draw for all channels and one for each: cameras have both.
        let common = rng.bell() * noise;
        // `as` rounds towards zero and saturates.
        Rgb(colour.map(|channel| (channel + common + rng.bell() * noise * 0.5 + 0.5) as u8))
    })
}

/// Pixels → the field's coordinates: a random origin in the image, rotation, scale, and a slight bend.
struct Placement {
    origin: (f32, f32),
    direction: (f32, f32),
    per_unit: f32,
    bend: f32,
    seed: u32,
}

impl Placement {
    fn new(rng: &mut Rng, size: f32) -> Self {
        Self {
            origin: (rng.range(0.2, 0.8) * size, rng.range(0.2, 0.8) * size),
            direction: rng.direction(),
            per_unit: rng.range(0.11, 0.2) * size,
            bend: rng.range(0.1, 0.6),
            seed: rng.seed(),
        }
    }

    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = ((x - self.origin.0) / self.per_unit, (y - self.origin.1) / self.per_unit);
        let (cos, sin) = self.direction;
        let (x, y) = (cos * x - sin * y, sin * x + cos * y);
        let bend = |seed: u32| self.bend * (value(seed, x * 0.35, y * 0.35) - 0.5);
        (x + bend(self.seed), y + bend(self.seed ^ 1))
    }
}

/// Two colours, either of which may be the lighter, and light that falls off in some direction.
struct Colours {
    from: [f32; 3],
    to: [f32; 3],
    light: (f32, f32),
}

impl Colours {
    fn new(rng: &mut Rng) -> Self {
        let middle = [0; 3].map(|_| rng.range(75.0, 180.0));
        let contrast = rng.range(28.0, 65.0) * if rng.coin() { 1.0 } else { -1.0 };
        // Mostly lightness, partly hue.
        let half = [0; 3].map(|_| contrast * rng.range(0.35, 1.2));
        let (x, y) = rng.direction();
        let fall = rng.range(0.0, 0.5);
        Self {
            from: [0, 1, 2].map(|i| middle[i] - half[i]),
            to: [0, 1, 2].map(|i| middle[i] + half[i]),
            light: (x * fall, y * fall),
        }
    }

    fn at(&self, level: f32, u: f32, v: f32) -> [f32; 3] {
        let light = 1.0 + self.light.0 * u + self.light.1 * v;
        [0, 1, 2].map(|i| mix(self.from[i], self.to[i], level) * light)
    }
}
