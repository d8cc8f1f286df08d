//! Models that are not trained, on random weights: their time beside transformers' and open_clip's, and what scoring class
//! names behind one prompt saves beside asking about each class by itself.
//!
//! `cargo bench -p fleet-worker --bench frozen [-- PART OF A ROW'S NAME…]`, or as a part of `make bench`. Python's side needs the environment of
//! tests/bench/set-up.sh; without it only ours is timed.

mod python;
mod rows;

use std::hint::black_box;
use std::time::Instant;

use fleet_worker::models::smolvlm::{SmolVlm, SmolVlmConfig};
use fleet_worker::models::vlm::{Vlm, read};
use fleet_worker::torch::GradMode;
use fleet_worker::torch::memory::Memory;
use tch::{Device, Kind, Tensor};

use python::Python;
use rows::{EVAL, Row, Task, builder, executor, rows};

/// Classes of the Describable Textures.
const CLASSES: i64 = 47;
/// Tokens of a class's name, about.
const NAME: i64 = 3;
/// Tokens of the question: a list of the classes, and what is asked.
const QUESTION: i64 = 190;
/// How often the two sides take turns.
const ROUNDS: usize = 5;
/// Seconds that a window of one side takes, about.
const WINDOW: f64 = 1.0;

/// Mean seconds of so many runs.
fn window(runs: u32, run: &dyn Fn()) -> f64 {
    let from = Instant::now();
    (0..runs).for_each(|_| run());
    from.elapsed().as_secs_f64() / f64::from(runs)
}

/// Seconds of the fastest of three.
fn fastest(run: &dyn Fn()) -> f64 {
    run();
    (0..3).map(|_| window(1, run)).fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A line of the table: a machine has better and worse minutes, so the sides take turns, and what counts is the ratio of
/// neighbouring windows.
fn compared(row: &Row) -> Result<String, String> {
    let ours = row.ours().map_err(|e| format!("{}: {e}", row.name))?;
    (ours.run)();
    let runs = (WINDOW / window(1, &ours.run)).ceil().clamp(1.0, 500.0) as u32;
    let mut python =
        python::interpreter().map(|python| Python::start(python, row, tch::get_num_threads())).transpose()?;
    if let Some(python) = &python
        && python.parameters != ours.parameters
    {
        let (ours, theirs) = (ours.parameters, python.parameters);
        return Err(format!("{}: ours has {ours} parameters and Python's {theirs}: not the same model", row.name));
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let seconds = window(runs, &ours.run);
        rounds.push((seconds, python.as_mut().map(|python| python.window(runs)).transpose()?));
    }
    let what = match row.task {
        Task::Images => "images".to_owned(),
        Task::Texts => "texts".to_owned(),
        Task::Answer { question, tokens } => format!("{tokens} tokens behind an image and {question}"),
    };
    let mine = median(&rounds.iter().map(|(ours, _)| *ours).collect::<Vec<_>>());
    let beside: Vec<(f64, f64)> =
        rounds.iter().filter_map(|(ours, python)| Some((ours / (*python)?, (*python)?))).collect();
    let beside = if beside.is_empty() {
        "not set up | ".to_owned()
    } else {
        let ratios: Vec<f64> = beside.iter().map(|(ratio, _)| *ratio).collect();
        let (least, most) = ratios.iter().fold((f64::INFINITY, 0.0f64), |(l, m), r| (l.min(*r), m.max(*r)));
        let theirs = median(&beside.iter().map(|(_, seconds)| *seconds).collect::<Vec<_>>());
        format!("{:.2} | {:.2} ({least:.2}–{most:.2})", 1e3 * theirs, median(&ratios))
    };
    let rate = row.batch as f64 / mine;
    Ok(format!("| {} | {what} | {} | {:.2} | {beside} | {rate:.1} |", row.name, row.batch, 1e3 * mine))
}

fn beside_python() -> Result<(), String> {
    println!("{} threads, f32, {ROUNDS} rounds", tch::get_num_threads());
    println!("| model | task | batch | ours ms | Python ms | ours / Python (least–most) | ours per second |");
    println!("|---|---|---|---|---|---|---|");
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_asked = |row: &Row| named.is_empty() || named.iter().any(|part| row.name.contains(part));
    rows().iter().filter(|row| is_asked(row)).try_for_each(|row| {
        println!("{}", compared(row)?);
        Ok(())
    })
}

fn scored_beside_asked() {
    let executor = executor();
    let model = SmolVlm::new(&builder(), &SmolVlmConfig::m256());
    let tile = Tensor::rand([1, 3, 512, 512], (Kind::Float, Device::Cpu));
    let question = Tensor::randint(49_000, [1, QUESTION], (Kind::Int64, Device::Cpu));
    let answers: Vec<Vec<i64>> = (0..CLASSES).map(|c| (0..NAME).map(|t| 100 + c * NAME + t).collect()).collect();
    let prompt = || {
        let image = model.image_tokens(&tile, &EVAL, &executor);
        let x = Tensor::cat(&[image, model.decoder().embed(&question)], 1);
        read(&model, x, &EVAL)
    };
    let shared = fastest(&|| drop(black_box(prompt().scores(&model, &answers, &EVAL))));
    // Asking about each class: the image and the question again, and as many tokens as the name has.
    let one = fastest(&|| drop(black_box(prompt().answers(&model, NAME as usize, &[], &EVAL))));
    let apart = one * CLASSES as f64;
    println!(
        "\nSmolVLM-256M, one image of one tile, {CLASSES} classes: scored behind one prompt in {shared:.2} s, asked about each by itself in \
         {apart:.1} s ({CLASSES} times one): {:.1} times",
        apart / shared
    );
}

fn main() -> Result<(), String> {
    let _off = GradMode::off();
    let _memory = Memory::of(Device::Cpu);
    beside_python()?;
    scored_beside_asked();
    Ok(())
}
