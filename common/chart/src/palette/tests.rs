//! How far the colours of data lie apart, for several kinds of colour vision.

use fleet_common::spec::Method;

use super::*;

type Triple = [f64; 3];

/// What the cones of a kind of colour vision leave of linear red, green and blue (Machado, Oliveira and Fernandes 2009,
/// at full severity).
const USUAL: [Triple; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
const PROTAN: [Triple; 3] =
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]];
const DEUTAN: [Triple; 3] =
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]];
const TRITAN: [Triple; 3] =
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]];

/// From sRGB, whose linear values these make X, Y and Z.
const XYZ: [Triple; 3] =
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]];
/// Of white.
const WHITE: Triple = [0.95047, 1.0, 1.08883];

fn times(matrix: &[Triple; 3], v: Triple) -> Triple {
    matrix.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
}

fn linear(hex: &str) -> Triple {
    [1, 3, 5].map(|at| {
        let value = u8::from_str_radix(&hex[at..at + 2], 16).expect("a colour");
        let x = f64::from(value) / 255.0;
        if x <= 0.04045 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
    })
}

/// CIE L*a*b* of a colour as a kind of colour vision sees it.
fn lab(hex: &str, vision: &[Triple; 3]) -> Triple {
    let seen = times(vision, linear(hex)).map(|x| x.clamp(0.0, 1.0));
    let xyz = times(&XYZ, seen);
    let f = |i: usize| {
        let t: f64 = xyz[i] / WHITE[i];
        if t > 216.0 / 24389.0 { t.cbrt() } else { (24389.0 / 27.0 * t + 16.0) / 116.0 }
    };
    let (x, y, z) = (f(0), f(1), f(2));
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// CIEDE2000, as Sharma, Wu and Dalal (2005) write it; 1 is about what can just be told apart side by side.
fn difference([l1, a1, b1]: Triple, [l2, a2, b2]: Triple) -> f64 {
    let far = |c: f64| (c.powi(7) / (c.powi(7) + 25f64.powi(7))).sqrt();
    let g = 0.5 * (1.0 - far((a1.hypot(b1) + a2.hypot(b2)) / 2.0));
    let (a1, a2) = (a1 * (1.0 + g), a2 * (1.0 + g));
    let (c1, c2) = (a1.hypot(b1), a2.hypot(b2));
    let hue = |a: f64, b: f64| b.atan2(a).to_degrees().rem_euclid(360.0);
    let (h1, h2) = (hue(a1, b1), hue(a2, b2));
    let turn = (h2 - h1 + 540.0).rem_euclid(360.0) - 180.0;
    let (lightness, chroma, h) = ((l1 + l2) / 2.0, (c1 + c2) / 2.0, h1 + turn / 2.0);
    let cos = |degrees: f64| degrees.to_radians().cos();
    let t = 1.0 - 0.17 * cos(h - 30.0) + 0.24 * cos(2.0 * h) + 0.32 * cos(3.0 * h + 6.0) - 0.2 * cos(4.0 * h - 63.0);
    let off = (lightness - 50.0).powi(2);
    let dl = (l2 - l1) / (1.0 + 0.015 * off / (20.0 + off).sqrt());
    let dc = (c2 - c1) / (1.0 + 0.045 * chroma);
    let dh = 2.0 * (c1 * c2).sqrt() * (turn / 2.0).to_radians().sin() / (1.0 + 0.015 * chroma * t);
    let around = ((h.rem_euclid(360.0) - 275.0) / 25.0).powi(2);
    let rotation = -(60.0 * (-around).exp()).to_radians().sin() * 2.0 * far(chroma);
    (dl * dl + dc * dc + dh * dh + rotation * dc * dh).sqrt()
}

#[test]
fn the_difference_is_that_of_published_pairs() {
    // Pairs 1, 7, 16 and 25 of the authors' table.
    for (one, other, expected) in [
        ([50.0, 2.6772, -79.7751], [50.0, 0.0, -82.7485], 2.0425),
        ([50.0, 0.0, 0.0], [50.0, -1.0, 2.0], 2.3669),
        ([50.0, 2.5, 0.0], [50.0, 0.0, -2.5], 4.3065),
        ([60.2574, -34.0099, 36.2677], [60.4626, -34.1751, 39.4387], 1.2644),
    ] {
        assert!((difference(one, other) - expected).abs() < 1e-4, "{} {expected}", difference(one, other));
    }
}

/// Contrast of two colours as WCAG defines it.
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |hex| times(&XYZ, linear(hex))[1] + 0.05;
    let (a, b) = (luminance(one), luminance(other));
    a.max(b) / a.min(b)
}

#[test]
fn methods_are_told_apart_on_either_paper_whatever_the_colour_vision() {
    assert_eq!(DATA.len(), Method::ALL.len());
    let light: Vec<(Method, String)> = Method::ALL.map(|m| (m, method(m).hex())).into();
    let dark: Vec<(Method, String)> = Method::ALL.map(|m| (m, method(m).dark.to_owned())).into();
    for (inks, paper) in [(&light, PAPER.hex()), (&dark, PAPER.dark.to_owned())] {
        for (i, (method, ink)) in inks.iter().enumerate() {
            assert!(contrast(ink, &paper) > 2.2, "{} on paper", method.name());
            for (other, second) in &inks[..i] {
                // Those that train have Okabe and Ito's colours on the light paper, and their kin on the dark.
                let (usual, least) = if method.trains() && other.trains() { (18.0, 7.0) } else { (22.0, 12.0) };
                for (vision, bound) in [(USUAL, usual), (PROTAN, least), (DEUTAN, least), (TRITAN, least)] {
                    let found = difference(lab(ink, &vision), lab(second, &vision));
                    assert!(found >= bound, "{} and {}: {found:.1} of {bound}", method.name(), other.name());
                }
            }
        }
    }
}
