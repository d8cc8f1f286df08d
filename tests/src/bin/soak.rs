//! `make soak`: processes killed at random moments of campaigns of 60 short trials, until there were so many kills, and
//! what came of it. The first argument is the number of kills, the second the first seed.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use std::process::ExitCode;
use std::time::Instant;

use fleet_tests::chaos::{self, VICTIMS};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let kills = arguments.next().unwrap_or(200) as usize;
    let first = arguments.next().unwrap_or(1);
    let started = Instant::now();
    let (mut killed, mut asked, mut lost, mut doubled, mut orphaned) = ([0; VICTIMS.len()], 0, 0, 0, 0);
    let mut recoveries: Vec<(&str, f64)> = Vec::new();
    let mut seed = first;
    println!("seed  trials  coordinator  daemon  worker  lost  doubled  orphaned");
    while killed.iter().sum::<usize>() < kills {
        let tally = chaos::run(seed, 10, kills - killed.iter().sum::<usize>());
        let of: Vec<usize> = VICTIMS.iter().map(|v| tally.killed.get(v).copied().unwrap_or(0)).collect();
        println!(
            "{seed:>4}  {:>6}  {:>11}  {:>6}  {:>6}  {:>4}  {:>7}  {:>8}",
            tally.asked, of[0], of[1], of[2], tally.lost, tally.doubled, tally.orphaned
        );
        killed.iter_mut().zip(of).for_each(|(sum, n)| *sum += n);
        (asked, lost, doubled) = (asked + tally.asked, lost + tally.lost, doubled + tally.doubled);
        orphaned += tally.orphaned;
        recoveries.extend(tally.recoveries);
        seed += 1;
    }
    println!(
        " all  {asked:>6}  {:>11}  {:>6}  {:>6}  {lost:>4}  {doubled:>7}  {orphaned:>8}",
        killed[0], killed[1], killed[2]
    );
    println!("\nseconds from a kill to the next trial that ended   n  median   most");
    for victim in VICTIMS {
        let mut of: Vec<f64> = recoveries.iter().filter(|(v, _)| *v == victim).map(|(_, s)| *s).collect();
        of.sort_by(f64::total_cmp);
        if let (Some(median), Some(most)) = (of.get(of.len() / 2), of.last()) {
            println!("{victim:<45} {:>6}  {median:>6.1} {most:>6.1}", of.len());
        }
    }
    println!("\n{} kills in {:.0} s", killed.iter().sum::<usize>(), started.elapsed().as_secs_f64());
    if lost + doubled + orphaned as u64 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
