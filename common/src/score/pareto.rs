//! Which points no other point beats.

/// Indices of the points (cost, benefit) that no other point dominates: none has at most the cost and at least the
/// benefit with one of them strictly better. Ordered by cost. Points with a value that is not a number are left out.
pub fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| !points[i].0.is_nan() && !points[i].1.is_nan()).collect();
    // By cost, and among equal costs the greatest benefit first.
    order.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0).then(points[b].1.total_cmp(&points[a].1)));
    let mut front: Vec<usize> = Vec::new();
    for i in order {
        match front.last().map(|&last| points[last]) {
            Some(last) if points[i] == last => front.push(i),
            Some(last) if points[i].1 <= last.1 => {}
            _ => front.push(i),
        }
    }
    front
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(points in prop::collection::vec((0u8..12, 0u8..12), 0..24)) {
            let points: Vec<(f64, f64)> = points.into_iter().map(|(c, b)| (f64::from(c), f64::from(b))).collect();
            let dominated = |i: usize| points.iter().any(|q| {
                q.0 <= points[i].0 && q.1 >= points[i].1 && (q.0 < points[i].0 || q.1 > points[i].1)
            });
            let mut front = pareto_front(&points);
            front.sort_unstable();
            let expected: Vec<usize> = (0..points.len()).filter(|&i| !dominated(i)).collect();
            prop_assert_eq!(front, expected);
        }
    }
}
