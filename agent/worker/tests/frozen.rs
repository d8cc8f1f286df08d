//! Classification by frozen features: neighbours against brute force, a probe on data that a line divides.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

mod support;

use fleet_worker::frozen::knn::{Nearest, Votes};
use fleet_worker::frozen::probe::{Halves, Probe, ProbeConfig, halves};
use fleet_worker::nn::Seed;
use proptest::prelude::*;
use support::one_at_a_time;
use tch::{Device, Kind, Tensor};

fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
}

/// Votes by the definition, in f64.
fn brute(queries: &[Vec<f32>], bank: &[Vec<f32>], labels: &[i64], k: usize, votes: Votes) -> Vec<Vec<f64>> {
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
    };
    let of = |query: &Vec<f32>| {
        let mut near: Vec<(f64, i64)> = bank.iter().zip(labels).map(|(b, l)| (cosine(query, b), *l)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.truncate(k);
        let nearest = near[0].0;
        let mut sums = vec![0.0; 4];
        for (similar, label) in near {
            sums[label as usize] += match votes {
                Votes::Equal => 1.0,
                Votes::Softmax { temperature } => ((similar - nearest) / temperature).exp(),
            };
        }
        sums
    };
    queries.iter().map(of).collect()
}

fn rows(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<f32>>> {
    let value = prop_oneof![0.1f32..2.0, -2.0f32..-0.1];
    prop::collection::vec(prop::collection::vec(value, 5), n)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn neighbours_are_those_of_brute_force_however_the_bank_is_cut(
        queries in rows(1..6), bank in rows(1..40), k in 1u32..12, piece in 1usize..40, equal: bool, salt: u64,
    ) {
        let _alone = one_at_a_time();
        let labels: Vec<i64> = (0..bank.len() as u64).map(|i| (Seed::root(salt).branch(i).get() % 4) as i64).collect();
        let votes = if equal { Votes::Equal } else { Votes::Softmax { temperature: 0.07 } };
        let mut nearest = Nearest::new(&tensor(&queries), k);
        for (rows, labels) in bank.chunks(piece).zip(labels.chunks(piece)) {
            nearest.offer(&tensor(rows), &Tensor::from_slice(labels));
        }
        let found = nearest.votes(4, votes).unwrap();
        let expected = brute(&queries, &bank, &labels, k as usize, votes);
        for (q, row) in expected.iter().enumerate() {
            for (class, sum) in row.iter().enumerate() {
                let ours = found.double_value(&[q as i64, class as i64]);
                prop_assert!((ours - sum).abs() < 1e-3, "query {} class {}: {} and {}", q, class, ours, sum);
            }
        }
    }

    #[test]
    fn each_image_is_in_one_half_and_each_class_in_both_where_it_can_be(
        labels in prop::collection::vec(0i64..5, 1..60), share in 0.01f64..0.9, seed: u64,
    ) {
        let Halves { train, decide } = halves(&labels, share, Seed::root(seed));
        let mut all: Vec<i64> = train.iter().chain(&decide).copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..labels.len() as i64).collect::<Vec<_>>());
        for class in 0..5 {
            let of = |half: &[i64]| half.iter().filter(|i| labels[**i as usize] == class).count();
            let count = labels.iter().filter(|l| **l == class).count();
            prop_assert!(count == 0 || of(&train) > 0, "class {} trains", class);
            prop_assert!(count < 2 || of(&decide) > 0, "class {} decides", class);
        }
    }
}

#[test]
fn nothing_offered_is_no_vote() {
    let _alone = one_at_a_time();
    assert!(Nearest::new(&tensor(&[vec![1.0, 0.0]]), 3).votes(2, Votes::Equal).is_none());
}

/// Three classes around three directions.
fn clusters(n: i64, seed: i64) -> (Tensor, Tensor) {
    tch::manual_seed(seed);
    let labels = Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(3);
    let centres = Tensor::eye(3, (Kind::Float, Device::Cpu)) * 4.0;
    (centres.index_select(0, &labels) + Tensor::randn([n, 3], (Kind::Float, Device::Cpu)), labels)
}

#[test]
fn a_probe_learns_what_a_line_divides_and_is_the_same_again() {
    let _alone = one_at_a_time();
    let ((x, y), (tests, truth)) = (clusters(300, 1), clusters(300, 2));
    let config = ProbeConfig { steps: 300, batch: 32, rates: vec![1e-6, 0.1, 1.0], ..ProbeConfig::default() };
    let train = || Probe::train(&x, &y, 3, &config, Seed::root(7), &mut |_| true).unwrap().expect("not called off");
    let probe = train();
    let right = probe.forward(&tests).argmax(-1, false).eq_tensor(&truth).mean(Kind::Float).double_value(&[]);
    assert!(right > 0.95, "{right}");
    assert!(probe.rate > 1e-6, "the rate that learns nothing is not chosen");
    assert!(probe.held_back_accuracy > 0.9);
    assert!(train().forward(&tests).equal(&probe.forward(&tests)), "to the last bit");
}

/// A probe of a grid is what it would be alone.
#[test]
fn probes_do_not_see_each_other() {
    let _alone = one_at_a_time();
    let ((x, y), (tests, _)) = (clusters(90, 3), clusters(20, 4));
    let of = |rates: Vec<f64>| {
        let config = ProbeConfig { steps: 40, batch: 16, rates, ..ProbeConfig::default() };
        Probe::train(&x, &y, 3, &config, Seed::root(5), &mut |_| true).unwrap().expect("not called off")
    };
    let both = of(vec![1e-7, 0.5]);
    assert_eq!(both.rate, 0.5);
    let difference = (both.forward(&tests) - of(vec![0.5]).forward(&tests)).abs().max().double_value(&[]);
    assert!(difference < 1e-4, "{difference}");
}
