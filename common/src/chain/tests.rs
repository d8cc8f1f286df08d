//! Against brute force.

use proptest::prelude::*;

use super::*;

/// Every combination of options, in order.
fn all_combinations(problem: &Problem) -> impl Iterator<Item = Vec<usize>> + '_ {
    let count: usize = problem.stages.iter().map(|s| s.options.len()).product();
    (0..count).map(|mut number| {
        let digits = problem.stages.iter().map(|s| {
            let digit = number % s.options.len();
            number /= s.options.len();
            digit
        });
        digits.collect()
    })
}

/// The cheapest of all within the limit, or the smallest peak of all.
fn brute_force(problem: &Problem) -> Result<u64, Infeasible> {
    let all: Vec<Solution> = all_combinations(problem).map(|options| problem.evaluate(&options)).collect();
    let within = all.iter().filter(|s| s.peak <= problem.limit).map(|s| s.cost).min();
    within.ok_or_else(|| Infeasible { least: all.iter().map(|s| s.peak).min().unwrap_or(0) })
}

fn problem(stages: std::ops::RangeInclusive<usize>, options: usize) -> impl Strategy<Value = Problem> {
    let choice = (0..50u64, 0..40u64, 0..40u64, prop::collection::vec(0..30u64, options));
    let choice = choice.prop_map(|(cost, there, back, held)| Choice { cost, held, there, back });
    let stage = (0..20u64, 0..40u64, prop::collection::vec(choice, 1..=options));
    let stage = stage.prop_map(|(there, back, options)| Stage { there, back, options });
    (prop::collection::vec(stage, stages), 0..60u64, 0..250u64).prop_map(|(mut stages, turn, limit)| {
        let mut before = 1;
        for stage in &mut stages {
            stage.options.iter_mut().for_each(|choice| choice.held.truncate(before));
            before = stage.options.len();
        }
        Problem { limit, stages, turn }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_solution_is_the_best_of_all(problem in problem(0..=7, 3)) {
        match (solve(&problem), brute_force(&problem)) {
            (Ok(found), Ok(cost)) => {
                prop_assert_eq!(found.cost, cost);
                prop_assert!(found.peak <= problem.limit);
                prop_assert_eq!(&problem.evaluate(&found.options), &found);
            }
            (found, best) => prop_assert_eq!(found.map(|s| s.cost), best),
        }
    }

    #[test]
    fn a_larger_limit_never_costs_more(problem in problem(1..=20, 4), more in 1..200u64) {
        let wider = Problem { limit: problem.limit + more, ..problem.clone() };
        if let Ok(found) = solve(&problem) {
            let wide = solve(&wider).expect("what fits still fits");
            prop_assert!(wide.cost <= found.cost);
        }
        let least = problem.least_peak();
        let at_least = solve(&Problem { limit: least, ..problem.clone() });
        prop_assert!(at_least.is_ok());
        if let Some(limit) = least.checked_sub(1) {
            let below = solve(&Problem { limit, ..problem });
            prop_assert_eq!(below, Err(Infeasible { least }));
        }
    }

    /// One option for all, or one from some stage on: what policies without a profile do.
    #[test]
    fn never_dearer_than_a_simple_policy_that_fits(problem in problem(1..=30, 4)) {
        let choose = |i: usize, option: usize| option.min(problem.stages[i].options.len() - 1);
        let n = problem.stages.len();
        let simple = (0..=n).flat_map(|from| (0..4).flat_map(move |a| (0..4).map(move |b| (from, a, b))));
        let simple = simple.map(|(from, a, b)| (0..n).map(|i| choose(i, if i < from { a } else { b })).collect::<Vec<_>>());
        let best = simple.map(|options| problem.evaluate(&options)).filter(|s| s.peak <= problem.limit).map(|s| s.cost).min();
        if let Some(best) = best {
            let found = solve(&problem).expect("a simple policy fits");
            prop_assert!(found.cost <= best);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn twelve_stages_too(problem in problem(12..=12, 3)) {
        prop_assert_eq!(solve(&problem).map(|s| s.cost), brute_force(&problem));
    }
}

/// Twelve equal stages as of a transformer: running again the first ones needs less at the turn than running again the
/// last.
#[test]
fn early_stages_run_again_before_late_ones() {
    let keep = Choice { cost: 0, held: vec![16], there: 8, back: 8 };
    let again = Choice { cost: 10, held: vec![1], there: 8, back: 8 + 15 };
    let stage = |i: usize| {
        let previous = if i == 0 { 1 } else { 2 };
        let options = [&keep, &again].map(|c| Choice { held: vec![c.held[0]; previous], ..c.clone() }).to_vec();
        Stage { there: 100, back: 100, options }
    };
    let problem = Problem { limit: 100 + 8 + 6 * 16 + 6, stages: (0..12).map(stage).collect(), turn: 100 };
    let found = solve(&problem).expect("fits");
    let again: Vec<usize> = (0..12).filter(|i| found.options[*i] == 1).collect();
    assert_eq!(found.cost, 10 * again.len() as u64);
    let mut late = vec![0; 12 - again.len()];
    late.resize(12, 1);
    let mut early = vec![1; again.len()];
    early.resize(12, 0);
    assert!(problem.evaluate(&early).peak < problem.evaluate(&late).peak);
    assert!(problem.evaluate(&late).peak > problem.limit, "the same number of stages, run again late, does not fit");
}

/// Two hundred different stages: fronts are bounded by the number of different costs.
#[test]
fn long_lines_are_solved_in_time() {
    let stage = |i: u64| {
        let previous = if i == 0 { 1 } else { 3 };
        let choice = |k: u64| Choice {
            cost: k * (3 + (i * 7919) % 17),
            held: vec![(2 - k) * (50 + (i * 104_729) % 97) + 1; previous],
            there: 10,
            back: 10 + k * 60,
        };
        Stage { there: 0, back: i % 5, options: (0..3).map(choice).collect() }
    };
    let stages: Vec<Stage> = (0..200).map(stage).collect();
    let problem = Problem { limit: 12_000, stages, turn: 30 };
    let found = solve(&problem).expect("fits");
    assert!(found.peak <= 12_000 && found.peak > 11_900, "{}", found.peak);
}
