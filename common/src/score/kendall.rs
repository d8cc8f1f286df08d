//! Agreement of two rankings: Kendall's tau-b (Kendall, "The treatment of ties in ranking problems", Biometrika 33,
//! 1945), computed by sorting (Knight, JASA 61, 1966).
//!
//! tau-b = (C − D) / √((n₀ − n₁)(n₀ − n₂)) with C concordant and D discordant pairs, n₀ pairs in all, n₁ of them tied
//! on the one side and n₂ on the other. 1 is the same order, −1 the opposite, and ties count for neither.

/// Fewer than this have no agreement worth a number: two are in the same order by a coin's toss.
pub const FEWEST: usize = 3;

/// Why two rankings have no agreement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAgreement {
    /// See [`FEWEST`].
    #[error("rank agreement needs at least {FEWEST} combinations, and there {}", are(*.found))]
    TooFew {
        /// How many there are.
        found: usize,
    },
    /// Where all values are equal there is no order to agree with.
    #[error("all {found} values of one side are equal, so they have no order")]
    Constant {
        /// How many there are.
        found: usize,
    },
    /// A value is not a number and has no rank.
    #[error("a value is not a number")]
    NotANumber,
}

fn are(n: usize) -> String {
    if n == 1 { "is 1".to_owned() } else { format!("are {n}") }
}

/// Kendall's tau-b of pairs of values, between −1 and 1.
///
/// # Errors
/// Too few pairs, a side on which all are equal, a value that is not a number.
pub fn kendall_tau_b(pairs: &[(f64, f64)]) -> Result<f64, NoAgreement> {
    let found = pairs.len();
    if found < FEWEST {
        return Err(NoAgreement::TooFew { found });
    }
    if pairs.iter().any(|(a, b)| a.is_nan() || b.is_nan()) {
        return Err(NoAgreement::NotANumber);
    }
    // Zero and minus zero are one value; adding zero makes them one for `total_cmp` too.
    let mut sorted: Vec<(f64, f64)> = pairs.iter().map(|(a, b)| (a + 0.0, b + 0.0)).collect();
    sorted.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.total_cmp(&y.1)));
    let tied_first = tied(&sorted, |x, y| x.0 == y.0);
    let tied_both = tied(&sorted, |x, y| x == y);
    let mut second: Vec<f64> = sorted.iter().map(|p| p.1).collect();
    let discordant = sort_counting(&mut second);
    let tied_second = tied(&second, |x, y| x == y);
    let all = choose_two(found);
    if tied_first == all || tied_second == all {
        return Err(NoAgreement::Constant { found });
    }
    // What is added comes first: pairs tied in one of the two may be more than all, where many are tied in both.
    let concordant = all + tied_both - tied_first - tied_second - discordant;
    // One root of the product: two roots multiplied make 0.9999999999999999 of the same order.
    let root = ((all - tied_first) as f64 * (all - tied_second) as f64).sqrt();
    Ok(((concordant as f64 - discordant as f64) / root).clamp(-1.0, 1.0))
}

fn choose_two(n: usize) -> u64 {
    let n = n as u64;
    n * n.saturating_sub(1) / 2
}

/// Pairs within runs of equal elements.
fn tied<T>(sorted: &[T], same: impl Fn(&T, &T) -> bool) -> u64 {
    sorted.chunk_by(same).map(|run| choose_two(run.len())).sum()
}

/// Sorts, and returns how many pairs stood in the wrong order: the exchanges that sorting by neighbours would take.
fn sort_counting(values: &mut [f64]) -> u64 {
    if values.len() < 2 {
        return 0;
    }
    let (left, right) = values.split_at_mut(values.len() / 2);
    let mut inversions = sort_counting(left) + sort_counting(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        if right[j] < left[i] {
            inversions += (left.len() - i) as u64;
            merged.push(right[j]);
            j += 1;
        } else {
            merged.push(left[i]);
            i += 1;
        }
    }
    merged.extend_from_slice(&left[i..]);
    merged.extend_from_slice(&right[j..]);
    values.copy_from_slice(&merged);
    inversions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zip(a: &[f64], b: &[f64]) -> Vec<(f64, f64)> {
        a.iter().copied().zip(b.iter().copied()).collect()
    }

    /// The definition, pair by pair.
    fn by_definition(pairs: &[(f64, f64)]) -> f64 {
        let (mut difference, mut first, mut second) = (0.0, 0.0, 0.0);
        let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
        for (i, x) in pairs.iter().enumerate() {
            for y in &pairs[..i] {
                let (a, b) = (sign(x.0 - y.0), sign(x.1 - y.1));
                difference += a * b;
                first += a * a;
                second += b * b;
            }
        }
        difference / f64::sqrt(first * second)
    }

    #[test]
    fn published_examples() {
        // Hollander & Wolfe (1973), p. 187: lightness of tuna and a panel's rating, as in R's manual of cor.test.
        let lightness = [44.4, 45.9, 41.9, 53.3, 44.7, 44.1, 50.7, 45.2, 60.1];
        let rating = [2.6, 3.1, 2.5, 5.0, 3.6, 4.0, 5.2, 2.8, 3.8];
        let tau = kendall_tau_b(&zip(&lightness, &rating)).expect("a number");
        assert!((tau - 0.444_444_444_444_444_4).abs() < 1e-12, "{tau}");
        // SciPy's manual of kendalltau, with ties on both sides.
        let tau = kendall_tau_b(&zip(&[12.0, 2.0, 1.0, 12.0, 2.0], &[1.0, 4.0, 7.0, 1.0, 0.0])).expect("a number");
        assert!((tau + 0.471_404_520_791_031_73).abs() < 1e-12, "{tau}");
    }

    #[test]
    fn the_same_order_is_exactly_one() {
        for values in [&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][..], &[1.0, 1.0, 2.0, 3.0, 3.0]] {
            assert_eq!(kendall_tau_b(&zip(values, values)), Ok(1.0));
        }
    }

    #[test]
    fn more_ties_than_pairs_are_counted_too() {
        let pairs = [(0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0)];
        let tau = kendall_tau_b(&pairs).expect("both vary");
        assert!((tau - by_definition(&pairs)).abs() < 1e-12, "{tau}");
    }

    #[test]
    fn what_has_no_order_has_no_agreement() {
        assert_eq!(kendall_tau_b(&[(1.0, 2.0), (2.0, 3.0)]), Err(NoAgreement::TooFew { found: 2 }));
        assert_eq!(kendall_tau_b(&zip(&[1.0, 2.0, 3.0], &[5.0; 3])), Err(NoAgreement::Constant { found: 3 }));
        assert_eq!(kendall_tau_b(&zip(&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0])), Err(NoAgreement::NotANumber));
        assert_eq!(
            kendall_tau_b(&zip(&[0.0, -0.0, 3.0], &[1.0, 2.0, 3.0])),
            kendall_tau_b(&zip(&[0.0, 0.0, 3.0], &[1.0, 2.0, 3.0]))
        );
        assert!(NoAgreement::TooFew { found: 1 }.to_string().contains("there is 1"));
    }

    proptest! {
        /// Few different values, so that ties are everywhere.
        #[test]
        fn sorting_counts_what_the_definition_counts(
            pairs in prop::collection::vec((0u8..6, 0u8..6), 3..40)
        ) {
            let pairs: Vec<(f64, f64)> = pairs.into_iter().map(|(a, b)| (f64::from(a), f64::from(b))).collect();
            let expected = by_definition(&pairs);
            match kendall_tau_b(&pairs) {
                Ok(tau) => prop_assert!((tau - expected).abs() < 1e-12, "{} and {}", tau, expected),
                Err(why) => {
                    prop_assert_eq!(why, NoAgreement::Constant { found: pairs.len() });
                    prop_assert!(expected.is_nan());
                }
            }
        }
    }
}
