//! Procedural textures: a data set for trials where no other is at hand, written in DTD's layout.
//!
//! There are two sets of eight classes with no family in common, so that a model can be trained on one and adapted to
//! the other. Colours, contrast, light, rotation, scale and noise are random in every image; only the structure tells
//! the class. The files are the same, bit for bit, wherever this version writes them (see `noise`).

mod noise;
mod paint;
mod set_a;
mod set_b;
mod write;

use image::RgbImage;
use noise::Rng;
pub use write::write;

/// Which families of textures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextureSet {
    /// Bands, lattices of simple shapes, plain noise.
    A,
    /// Walled cells, curves around a centre, weaves.
    B,
}

impl TextureSet {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// "A" or "B".
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// The names of its classes, sorted; none is in both sets.
    pub fn classes(self) -> [&'static str; 8] {
        self.families().map(|family| family.name)
    }

    fn families(self) -> [Family; 8] {
        match self {
            Self::A => set_a::FAMILIES,
            Self::B => set_b::FAMILIES,
        }
    }
}

impl std::str::FromStr for TextureSet {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|set| set.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("unknown set of textures \"{name}\". Known: A, B"))
    }
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextureSpec {
    /// Seed of everything random. An image depends on the seed, the set, its class, its number and the size alone: a
    /// longer set begins with the shorter one.
    pub seed: u64,
    /// Which families.
    pub set: TextureSet,
    /// Images per class, split evenly over train1, val1 and test1, as DTD's are.
    pub per_class: u32,
    /// The longest side in pixels; sides vary from five sixths of it to all of it.
    pub size: u32,
}

impl TextureSpec {
    /// Bounds on [`Self::per_class`]: one image for each list, and numbers of five digits.
    pub const PER_CLASS: std::ops::RangeInclusive<u32> = 3..=100_000;
    /// Bounds on [`Self::size`].
    pub const SIZE: std::ops::RangeInclusive<u32> = 32..=1024;
}

/// A class: its name, and how to draw the parameters of one image of it.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    field: fn(&mut Rng) -> Field,
}

/// (x, y) → 0 to 1, from one colour to the other.
type Field = Box<dyn Fn(f32, f32) -> f32>;

/// One image of a set.
fn image(spec: &TextureSpec, family: &Family, index: u32) -> RgbImage {
    let mut rng = Rng::new(&[
        &spec.seed.to_le_bytes(),
        spec.set.name().as_bytes(),
        family.name.as_bytes(),
        &index.to_le_bytes(),
        &spec.size.to_le_bytes(),
    ]);
    paint::paint(family, &mut rng, spec.size)
}
