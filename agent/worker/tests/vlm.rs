//! Prompts that are read together, behind a common beginning, or gone on with by several answers at once give what each
//! gives by itself. In f64, so that nothing but a different meaning makes a difference.

use std::rc::Rc;

use fleet_worker::models::decoder::{Cache, DecoderConfig, Family};
use fleet_worker::models::paligemma::{PaliGemma, PaliGemmaConfig};
use fleet_worker::models::siglip::SiglipVisionConfig;
use fleet_worker::models::smolvlm::{SmolVlm, SmolVlmConfig};
use fleet_worker::models::vlm::{Vlm, read, read_beginning, read_behind};
use fleet_worker::nn::{Builder, Ctx, Seed};
use fleet_worker::peft::Frozen;
use fleet_worker::torch::GradMode;
use tch::{Device, Kind, Tensor};

const EVAL: Ctx<'static> = Ctx::eval();
const WIDTH: i64 = 24;
const VOCABULARY: i64 = 50;

fn builder() -> Builder {
    Builder::new(Rc::new(Frozen::default()), None, Seed::root(5), Device::Cpu, Kind::Double)
}

fn vision() -> SiglipVisionConfig {
    SiglipVisionConfig { image_size: 8, patch_size: 4, width: 16, depth: 1, heads: 2, hidden: 16, norm_eps: 1e-6 }
}

fn text(family: Family) -> DecoderConfig {
    DecoderConfig {
        vocabulary: VOCABULARY,
        width: WIDTH,
        depth: 2,
        heads: 4,
        kv_heads: 2,
        head: 6,
        hidden: 32,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        family,
    }
}

fn causal() -> SmolVlm {
    SmolVlm::new(&builder(), &SmolVlmConfig { vision: vision(), text: text(Family::Llama), shuffle: 2 })
}

fn prefix() -> PaliGemma {
    PaliGemma::new(&builder(), &PaliGemmaConfig { vision: vision(), text: text(Family::Gemma) })
}

fn noise(seed: i64, shape: &[i64]) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(shape, (Kind::Double, Device::Cpu))
}

fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn what_prompts_begin_with_can_be_read_once_for_all() {
    let _off = GradMode::off();
    let model = causal();
    let ids = Tensor::from_slice(&[3i64, 14, 15, 9]);
    let rest = noise(1, &[3, 5, WIDTH]);
    let beginning = read_beginning(&model, &ids, &EVAL).expect("a causal model's beginning sees nothing behind it");
    assert_eq!(beginning.tokens(), 4);
    let shared = read_behind(&model, beginning.for_each_of(3), rest.shallow_clone(), &EVAL);
    let embedded = model.decoder().embed(&ids.unsqueeze(0)).expand([3, -1, -1], false);
    let whole = read(&model, Tensor::cat(&[embedded, rest], 1), &EVAL);
    assert!(apart(&shared.logits(&model, &EVAL), &whole.logits(&model, &EVAL).narrow(1, 4, 5)) < 1e-12);
    let answers = [vec![1, 2, 3], vec![1], vec![4, 5]];
    for (shared, whole) in shared.scores(&model, &answers, &EVAL).iter().zip(whole.scores(&model, &answers, &EVAL)) {
        for (shared, whole) in shared.iter().zip(whole) {
            assert!((shared - whole).abs() < 1e-12, "{shared} beside {whole}");
        }
    }
    assert_eq!(shared.answers(&model, 4, &[], &EVAL), whole.answers(&model, 4, &[], &EVAL));
}

#[test]
fn what_sees_all_of_a_prompt_cannot_be_read_by_itself() {
    let _off = GradMode::off();
    assert!(read_beginning(&prefix(), &Tensor::from_slice(&[3i64, 14]), &EVAL).is_none());
}

#[test]
fn prompts_together_and_answers_together_score_as_each_by_itself() {
    let _off = GradMode::off();
    let models: [Box<dyn Vlm>; 2] = [Box::new(causal()), Box::new(prefix())];
    for model in &models {
        let model = model.as_ref();
        let prompts = noise(2, &[2, 6, WIDTH]);
        let answers = [vec![1, 2, 3], vec![1, 2], vec![7], vec![], vec![8, 9, 10, 11]];
        let together = read(model, prompts.shallow_clone(), &EVAL).scores(model, &answers, &EVAL);
        for (i, scores) in together.iter().enumerate() {
            let alone = || read(model, prompts.narrow(0, i as i64, 1), &EVAL);
            for (answer, score) in answers.iter().zip(scores) {
                // By the definition: the sum of each token's log-probability behind the prompt and the tokens before it.
                let first = alone().logits(model, &EVAL).select(1, -1);
                let behind = match answer.is_empty() {
                    true => first.unsqueeze(1),
                    false => Tensor::cat(&[first.unsqueeze(1), alone().following(model, answer, &EVAL)], 1),
                };
                let likely = behind.squeeze_dim(0).log_softmax(-1, None::<Kind>);
                let sum: f64 = (0..).zip(answer).map(|(at, token)| likely.double_value(&[at, *token])).sum();
                // Log-probabilities are computed in single precision.
                assert!((score - sum).abs() < 1e-5, "{answer:?} behind prompt {i}: {score} beside {sum}");
            }
        }
    }
}

#[test]
fn prompts_together_are_answered_as_each_by_itself_and_none_goes_on_behind_its_end() {
    let _off = GradMode::off();
    let model = causal();
    let prompts = noise(3, &[4, 6, WIDTH]);
    let alone = |i: i64, ends: &[i64]| {
        read(&model, prompts.narrow(0, i, 1), &EVAL).answers(&model, 6, ends, &EVAL).swap_remove(0)
    };
    let free: Vec<Vec<i64>> = (0..4).map(|i| alone(i, &[])).collect();
    assert!(free.iter().all(|answer| answer.len() == 6));
    // An end that the first prompt reaches on its way.
    let end = free[0][2];
    let together = read(&model, prompts.shallow_clone(), &EVAL).answers(&model, 6, &[end], &EVAL);
    for (i, answer) in together.iter().enumerate() {
        assert_eq!(*answer, alone(i as i64, &[end]));
        let stop = free[i].iter().position(|token| *token == end).map_or(6, |at| at + 1);
        assert_eq!(*answer, free[i][..stop]);
    }
    assert!(Cache::default().for_each_of(3).tokens() == 0);
}
