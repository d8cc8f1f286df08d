//! Names beside points. Greedy: the first free place of a fixed list, the full name before the number, near before far.

/// A point that wants a name, in nominal pixels.
pub(super) struct Wish {
    pub(super) at: (f64, f64),
    /// Names from the one preferred to the shortest, with their widths.
    pub(super) names: Vec<(String, f64)>,
}

/// Where a name goes: its centre, relative to the point, and whether it needs a line to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub(super) text: String,
    pub(super) dx: f64,
    pub(super) dy: f64,
    pub(super) width: f64,
    pub(super) leader: bool,
}

/// Height of a name, and how near others may come.
const HEIGHT: f64 = 13.0;
const POINT: f64 = 7.0;
/// Distances from the point at which a name is tried; beyond the first it gets a line.
const DISTANCES: [f64; 5] = [10.0, 20.0, 32.0, 46.0, 62.0];
/// How many of them are near.
const NEAR: usize = 3;
/// Directions, the most readable first.
const DIRECTIONS: [(f64, f64); 12] = [
    (1.0, 0.0),
    (-1.0, 0.0),
    (0.7, -0.7),
    (0.7, 0.7),
    (-0.7, -0.7),
    (-0.7, 0.7),
    (0.0, -1.0),
    (0.0, 1.0),
    (0.9, -0.4),
    (0.9, 0.4),
    (-0.9, -0.4),
    (-0.9, 0.4),
];

type Box = (f64, f64, f64, f64);

/// Places names inside `bounds` (left, top, right, bottom), away from each other, from the points and from `obstacles`.
///
/// A point whose shortest name fits nowhere gets none: a name on top of another tells nothing. The table still has it,
/// and so has the title that shows when the point is pointed at.
pub(super) fn place(wishes: &[Wish], obstacles: &[Box], bounds: Box) -> Vec<Option<Placed>> {
    let points: Vec<Box> = wishes.iter().map(|w| square(w.at, POINT)).collect();
    let mut taken: Vec<Box> = Vec::new();
    wishes
        .iter()
        .enumerate()
        .map(|(i, wish)| {
            let free = |area: &Box| {
                inside(area, &bounds)
                    && !taken.iter().chain(obstacles).any(|other| overlap(area, other))
                    && !points.iter().enumerate().any(|(k, other)| k != i && overlap(area, other))
            };
            let found = candidates(wish).find(|(placed, _)| free(&area(wish.at, placed)));
            found.map(|(placed, _)| {
                taken.push(area(wish.at, &placed));
                placed
            })
        })
        .collect()
}

/// Every place of every name: the full name nearby, then with a short line, then the next shorter name. Only the
/// shortest goes far away: a long line to a long name costs more attention than a number.
fn candidates(wish: &Wish) -> impl Iterator<Item = (Placed, f64)> {
    wish.names.iter().enumerate().flat_map(move |(i, (text, width))| {
        let rings = if i + 1 == wish.names.len() { DISTANCES.len() } else { NEAR };
        DISTANCES.iter().take(rings).enumerate().flat_map(move |(ring, distance)| {
            DIRECTIONS.iter().map(move |(x, y)| {
                let dx = x * distance + x.signum() * if *x == 0.0 { 0.0 } else { width / 2.0 };
                let dy = y * (distance + HEIGHT / 3.0);
                (Placed { text: text.clone(), dx, dy, width: *width, leader: ring > 0 }, *distance)
            })
        })
    })
}

fn area((x, y): (f64, f64), placed: &Placed) -> Box {
    let (cx, cy) = (x + placed.dx, y + placed.dy);
    (cx - placed.width / 2.0, cy - HEIGHT / 2.0, cx + placed.width / 2.0, cy + HEIGHT / 2.0)
}

fn square((x, y): (f64, f64), half: f64) -> Box {
    (x - half, y - half, x + half, y + half)
}

fn overlap(a: &Box, b: &Box) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

fn inside(a: &Box, bounds: &Box) -> bool {
    a.0 >= bounds.0 && a.1 >= bounds.1 && a.2 <= bounds.2 && a.3 <= bounds.3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(x: f64, y: f64) -> Wish {
        Wish { at: (x, y), names: vec![("lora · static".to_owned(), 70.0), ("12".to_owned(), 13.0)] }
    }

    #[test]
    fn names_overlap_neither_each_other_nor_points() {
        let wishes: Vec<Wish> =
            (0..40).map(|i| wish(100.0 + f64::from(i * 37 % 211), 80.0 + f64::from(i * 53 % 167))).collect();
        let bounds = (0.0, 0.0, 500.0, 360.0);
        let placed = place(&wishes, &[], bounds);
        let areas: Vec<Box> = wishes.iter().zip(&placed).filter_map(|(w, p)| Some(area(w.at, p.as_ref()?))).collect();
        assert!(areas.len() > 30, "most get a name: {}", areas.len());
        for (i, a) in areas.iter().enumerate() {
            assert!(inside(a, &bounds));
            assert!(areas.iter().skip(i + 1).all(|b| !overlap(a, b)));
        }
    }

    #[test]
    fn a_lone_point_has_its_full_name_at_its_right() {
        let placed = place(&[wish(50.0, 50.0)], &[], (0.0, 0.0, 200.0, 100.0));
        let first = placed[0].as_ref().expect("there is room");
        assert_eq!((first.text.as_str(), first.leader), ("lora · static", false));
        assert!(first.dx > 0.0 && first.dy == 0.0);
    }

    #[test]
    fn where_a_name_does_not_fit_the_number_does_and_else_nothing() {
        let narrow = place(&[wish(20.0, 20.0)], &[], (0.0, 0.0, 60.0, 60.0));
        assert_eq!(narrow[0].as_ref().map(|p| p.text.as_str()), Some("12"));
        assert_eq!(place(&[wish(5.0, 5.0)], &[], (0.0, 0.0, 10.0, 10.0)), [None]);
    }
}
