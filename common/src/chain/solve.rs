//! The exact solver: fronts of (cost, held) along the line.

use super::{Infeasible, Problem, Solution};

/// A way to come this far. Ways that cost and hold no less than another with the same last option are left out.
#[derive(Debug, Clone, Copy)]
struct Way {
    cost: u64,
    held: u64,
    /// Option of the stage before, and place in its front.
    from: (u32, u32),
}

/// The cheapest options within the limit; among equally cheap ones, one that holds the least in the end.
///
/// # Errors
/// There are none; the smallest limit for which there are.
pub fn solve(problem: &Problem) -> Result<Solution, Infeasible> {
    // fronts[i][o]: ways through the first i stages whose last option is o, by rising cost and falling holdings.
    let mut fronts = vec![vec![vec![Way { cost: 0, held: 0, from: (0, 0) }]]];
    for stage in &problem.stages {
        let before = &fronts[fronts.len() - 1];
        let through = |choice: &super::Choice| {
            let mut ways = Vec::new();
            for (option, (front, held)) in (0..).zip(before.iter().zip(&choice.held)) {
                ways.extend((0..).zip(front).filter_map(|(place, way)| {
                    let after = way.held + held;
                    let fits = stage.there + way.held + choice.there <= problem.limit
                        && stage.back + after + choice.back <= problem.limit;
                    fits.then_some(Way { cost: way.cost + choice.cost, held: after, from: (option, place) })
                }));
            }
            front(ways)
        };
        let next = stage.options.iter().map(through).collect();
        fronts.push(next);
    }
    let last = &fronts[fronts.len() - 1];
    let ends = last.iter().enumerate().flat_map(|(o, front)| front.iter().enumerate().map(move |(i, way)| (o, i, way)));
    let best =
        ends.filter(|(_, _, way)| problem.turn + way.held <= problem.limit).min_by_key(|(_, _, w)| (w.cost, w.held));
    let Some((mut option, mut place, _)) = best else { return Err(Infeasible { least: problem.least_peak() }) };
    let mut options = Vec::new();
    for fronts in fronts[1..].iter().rev() {
        options.push(option);
        let (before, at) = fronts[option][place].from;
        (option, place) = (before as usize, at as usize);
    }
    options.reverse();
    Ok(problem.evaluate(&options))
}

/// Those ways that no other is at least as good as.
fn front(mut ways: Vec<Way>) -> Vec<Way> {
    ways.sort_unstable_by_key(|way| (way.cost, way.held));
    let mut least = None;
    ways.retain(|way| {
        let better = least.is_none_or(|held| way.held < held);
        if better {
            least = Some(way.held);
        }
        better
    });
    ways
}
