//! Weights made for another input size.

use tch::{Kind, Tensor};

/// Where among its tokens an image's class token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassToken {
    /// In front of the patches.
    First,
    /// Behind the first half of the patches.
    Middle,
}

impl ClassToken {
    /// Its index among `patches` patches.
    pub const fn index(self, patches: i64) -> i64 {
        match self {
            Self::First => 0,
            Self::Middle => patches / 2,
        }
    }
}

/// A table of learned positions (1, 1 + n², width) for a grid of `side` by `side`, as timm's `resample_abs_pos_embed`:
/// the grid's part resized with a bicubic filter and anti-aliasing, the class token's as it is. `None` if it is no
/// table of a square grid.
pub(super) fn position_table(theirs: &Tensor, class: ClassToken, side: i64) -> Option<Tensor> {
    let [1, positions, width] = theirs.size()[..] else { return None };
    let places = positions - 1;
    let before = (places.max(0) as f64).sqrt().round() as i64;
    if before < 1 || before * before != places {
        return None;
    }
    let at = class.index(places);
    let grid = Tensor::cat(&[theirs.narrow(1, 0, at), theirs.narrow(1, at + 1, places - at)], 1).to_kind(Kind::Float);
    let grid = grid.reshape([1, before, before, width]).permute([0, 3, 1, 2]); // (1, width, n, n)
    let grid = grid.internal_upsample_bicubic2d_aa([side, side], false, None, None);
    let grid = grid.permute([0, 2, 3, 1]).reshape([1, side * side, width]).to_kind(theirs.kind());
    let (places, to) = (side * side, class.index(side * side));
    Some(Tensor::cat(&[grid.narrow(1, 0, to), theirs.narrow(1, at, 1), grid.narrow(1, to, places - to)], 1))
}

/// How positions of another grid are had by those who published the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GridResampling {
    /// timm: bicubic, with anti-aliasing.
    Antialiased,
    /// transformers: bicubic, to the size.
    ToSize,
    /// DINOv2's authors: bicubic, by the factor (size + 0.1) / size before, which shifts what is read a little.
    ByOffsetFactor,
}

/// A table of positions (1, class tokens + rows·columns before, width) of a square grid, for a grid of `rows` by `columns`;
/// the first `before` stay as they are. `None` if it is no table of a square grid.
pub fn grid_positions(theirs: &Tensor, before: i64, [rows, columns]: [i64; 2], how: GridResampling) -> Option<Tensor> {
    let [1, positions, width] = theirs.size()[..] else { return None };
    let places = positions - before;
    let side = (places.max(0) as f64).sqrt().round() as i64;
    if side < 1 || side * side != places || rows < 1 || columns < 1 {
        return None;
    }
    if [rows, columns] == [side, side] {
        return Some(theirs.shallow_clone());
    }
    let grid = theirs.narrow(1, before, places).to_kind(Kind::Float);
    let grid = grid.reshape([1, side, side, width]).permute([0, 3, 1, 2]); // (1, width, side, side)
    let size = [rows, columns];
    let grid = match how {
        GridResampling::Antialiased => grid.internal_upsample_bicubic2d_aa(size, false, None, None),
        GridResampling::ToSize => grid.upsample_bicubic2d(size, false, None, None),
        GridResampling::ByOffsetFactor => {
            let [by_row, by_column] = size.map(|n| (n as f64 + 0.1) / side as f64);
            grid.upsample_bicubic2d(size, false, by_row, by_column)
        }
    };
    let grid = grid.permute([0, 2, 3, 1]).reshape([1, rows * columns, width]).to_kind(theirs.kind());
    Some(Tensor::cat(&[theirs.narrow(1, 0, before), grid], 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys' cubic with a = -1/2, which anti-aliased resizing uses.
    fn keys(x: f64) -> f64 {
        let x = x.abs();
        match x {
            x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        }
    }

    /// One row of weights per output: the definition, with the filter as wide as what it shrinks.
    fn matrix(from: usize, to: usize) -> Vec<Vec<f64>> {
        let scale = from as f64 / to as f64;
        let wide = scale.max(1.0);
        (0..to)
            .map(|i| {
                let center = scale * (i as f64 + 0.5);
                let weights: Vec<f64> = (0..from).map(|j| keys((j as f64 + 0.5 - center) / wide)).collect();
                let sum: f64 = weights.iter().sum();
                weights.into_iter().map(|w| w / sum).collect()
            })
            .collect()
    }

    #[test]
    fn it_is_the_bicubic_filter_by_its_definition_and_the_class_token_stays() {
        let width = 3usize;
        for (from, to, class) in [(4, 7, ClassToken::First), (7, 4, ClassToken::Middle), (14, 8, ClassToken::Middle)] {
            let count = (1 + from * from) * width;
            let values: Vec<f32> = (0..count).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect();
            let theirs = Tensor::from_slice(&values).reshape([1, (1 + from * from) as i64, width as i64]);
            let ours = position_table(&theirs, class, to as i64).expect("a square grid");
            assert_eq!(ours.size(), [1, (1 + to * to) as i64, width as i64]);
            let got = Vec::<f32>::try_from(ours.reshape([-1])).expect("floats");
            // Where place `place` of a grid of n by n is in the table.
            let row = |place: usize, n: usize| place + usize::from(place >= class.index((n * n) as i64) as usize);
            let token = |n: usize| class.index((n * n) as i64) as usize * width;
            assert_eq!(got[token(to)..][..width], values[token(from)..][..width]);
            let m = matrix(from, to);
            for (y, x, c) in (0..to).flat_map(|y| (0..to).flat_map(move |x| (0..width).map(move |c| (y, x, c)))) {
                let at = |y: usize, x: usize| f64::from(values[row(y * from + x, from) * width + c]);
                let expected: f64 = (0..from)
                    .flat_map(|j| (0..from).map(move |i| (j, i)))
                    .map(|(j, i)| m[y][j] * m[x][i] * at(j, i))
                    .sum();
                let found = f64::from(got[row(y * to + x, to) * width + c]);
                assert!((found - expected).abs() < 1e-5, "{from} to {to}: {found} {expected}");
            }
        }
    }

    #[test]
    fn what_is_no_square_grid_is_left_alone() {
        let table = |positions: i64| Tensor::zeros([1, positions, 4], (Kind::Float, tch::Device::Cpu));
        assert!(position_table(&table(1 + 12), ClassToken::First, 4).is_none());
        assert!(position_table(&table(1), ClassToken::Middle, 4).is_none());
        assert!(
            position_table(&Tensor::zeros([4, 4], (Kind::Float, tch::Device::Cpu)), ClassToken::First, 4).is_none()
        );
    }
}
