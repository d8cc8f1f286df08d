//! Published models that are not trained, from their folders to what a record tells.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so at once")]

#[path = "../../../tests/src/published.rs"]
#[allow(dead_code, unreachable_pub, reason = "the black-box tests use all of it")]
mod published;
mod support;

use std::fs;
use std::path::Path;

use fleet_common::plan::MethodSettings;
use fleet_common::record::{BlockChoice, Outcome};
use fleet_common::spec::{Foundation, Storage};
use fleet_common::worker::{Job, Phase};
use fleet_dataset::{Dataset, Split};
use fleet_tokenizer::Tokenizer;
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::data::processor::Processor;
use fleet_worker::frozen::encoder::Encoder;
use fleet_worker::frozen::probe::{Probe, ProbeConfig};
use fleet_worker::frozen::published::{Names, Published};
use fleet_worker::frozen::speaker::Speaker;
use fleet_worker::nn::{Builder, Ctx, Seed, Weights};
use fleet_worker::peft;
use serde_json::json;
use support::trials::{Ended, Trials, interrupt, run};
use tch::{Device, Kind, Tensor};

/// A job that trains nothing.
fn job(trials: &Trials, foundation: Foundation, method: &serde_json::Value, batch: u32) -> Job {
    let mut job = trials.job(&json!({ "name": "full" }), "none");
    job.weights = Some(published::write(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")),
        trials.dir.path(),
        foundation,
    ));
    job.save_states = None;
    job.settings.method = serde_json::from_value(method.clone()).unwrap();
    job.settings.backbone = fleet_common::spec::Backbone::Foundation(foundation);
    job.settings.train = None;
    job.settings.evaluate.batch = batch;
    job
}

fn knn() -> serde_json::Value {
    json!({ "name": "knn", "k": 5, "temperature": 0.07 })
}

fn probe() -> serde_json::Value {
    json!({ "name": "linear-probe", "rates": [0.001, 0.1, 1.0], "batch": 32, "steps": 200, "held_back": 0.2 })
}

fn zero_shot() -> serde_json::Value {
    json!({ "name": "zero-shot", "templates": ["a photo of a {} texture.", "{}."] })
}

fn completed(ended: &Ended) -> f64 {
    assert_eq!(ended.outcome, Outcome::Completed);
    assert_eq!(ended.phases, [Phase::Load, Phase::Prepare, Phase::Evaluate]);
    let training = &ended.training;
    assert!(training.parameters > 10_000 && training.macs > 10_000 && training.losses.is_empty());
    assert!(
        training.phases.iter().all(|p| p.phase == Phase::Load || p.images > 0 || p.steps > 0),
        "{:?}",
        training.phases
    );
    training.top1_percent.unwrap()
}

fn refused(job: &Job) -> String {
    match run(job, |_, _| {}).outcome {
        Outcome::BadInput { message } => message,
        other => panic!("expected bad input, found {other:?}"),
    }
}

#[test]
fn neighbours_and_a_probe_classify_by_the_features_of_dinov2() {
    let trials = Trials::new();
    let by = |method, batch| run(&job(&trials, Foundation::Dinov2Small, &method, batch), |_, _| {});
    // Of so few test images some answers are the same by chance.
    for (k, temperature) in [(1, 0.07), (3, 1.0), (6, 0.01), (20, 1.0)] {
        let method = json!({ "name": "knn", "k": k, "temperature": temperature });
        assert_eq!(completed(&by(method, 5)), neighbours_by_hand(&trials, k, temperature), "{k} neighbours");
    }
    let (one, many) = (by(knn(), 1), by(knn(), 7));
    let expected = neighbours_by_hand(&trials, 5, 0.07);
    assert_eq!((completed(&one), completed(&many)), (expected, expected), "whatever the batch is");
    let frozen = many.training.frozen.unwrap();
    let support = trials_train(&trials);
    assert_eq!((frozen.batch, frozen.image_size), (7, Some(56)));
    assert_eq!((frozen.support_images, frozen.probe), (support, None));
    assert_eq!((many.training.trainable, many.training.evaluation_loss), (0, None));

    let probed = by(probe(), 8);
    assert_eq!(completed(&probed), probe_by_hand(&trials));
    let training = probed.training;
    assert_eq!(training.trainable, 8 * (48 + 1));
    let choice = training.frozen.unwrap().probe.unwrap();
    assert!([0.001, 0.1, 1.0].contains(&choice.learning_rate) && choice.held_back_percent <= 100.0, "{choice:?}");
    assert!(training.evaluation_loss.unwrap().is_finite());
}

/// Of each image its features in f64, one image at a time, and its class.
type Features = Vec<(Vec<f64>, u32)>;

fn numbers(x: &Tensor) -> Vec<f64> {
    Vec::try_from(&x.to_kind(Kind::Double).view([-1])).unwrap()
}

fn builder(published: &Published) -> Builder {
    let method = peft::method(&MethodSettings::Full);
    Builder::new(method, Some(published.weights().unwrap()), Seed::root(0), Device::Cpu, Kind::Float)
}

fn dataset(trials: &Trials) -> Dataset {
    Dataset::open(&"textures".to_owned().try_into().unwrap(), trials.dir.path()).unwrap()
}

fn features(published: &Published, encoder: &dyn Encoder, dataset: &Dataset, split: Split) -> Features {
    let pictures = published.pictures().unwrap();
    let (recipe, size) = (pictures.recipe, pictures.size);
    let processor = match recipe.crop_share {
        Some(_) => Processor::Centre { recipe, size },
        None => Processor::Squash { recipe, size },
    };
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    let one = |i: usize| {
        let image = processor.apply(&dataset.decode(split, i).unwrap(), Device::Cpu).unwrap();
        (numbers(&encoder.encode(&image, &Ctx::eval(), &executor)), dataset.label(split, i))
    };
    (0..dataset.len(split)).map(one).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Percent of `test` whose largest of 8 `votes`, the first of equal ones, is their class's.
fn accuracy(test: &Features, votes: impl Fn(&[f64]) -> [f64; 8]) -> f64 {
    let right = test.iter().filter(|(query, truth)| {
        let votes = votes(query);
        (0..8u32).rev().max_by(|a, b| votes[*a as usize].total_cmp(&votes[*b as usize])) == Some(*truth)
    });
    100.0 * right.count() as f64 / test.len() as f64
}

fn dinov2(trials: &Trials) -> (Published, Box<dyn Encoder>) {
    let folder = trials.dir.path().join(Foundation::Dinov2Small.name());
    let published = Published::open(&folder, Foundation::Dinov2Small).unwrap();
    let names = Names::of(&published.weights().unwrap());
    let encoder = published.encoder(&builder(&published), &names).unwrap();
    (published, encoder)
}

/// Accuracy in percent of neighbours that are looked for one by one, in f64, among features of whole images.
fn neighbours_by_hand(trials: &Trials, k: usize, temperature: f64) -> f64 {
    let (published, encoder) = dinov2(trials);
    let pictures = published.pictures().unwrap();
    assert_eq!((pictures.size, pictures.recipe.crop_share), (56, Some(56.0 / 64.0)));
    let dataset = dataset(trials);
    let features = |split| features(&published, encoder.as_ref(), &dataset, split);
    let (train, test) = (features(Split::Train), features(Split::Test));
    accuracy(&test, |query| {
        let mut near: Vec<(f64, u32)> = train.iter().map(|(f, label)| (cosine(query, f), *label)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = [0.0; 8];
        near[..k].iter().for_each(|(similar, label)| votes[*label as usize] += (similar / temperature).exp());
        votes
    })
}

/// Accuracy in percent of a probe on features that were computed one image at a time.
fn probe_by_hand(trials: &Trials) -> f64 {
    let (published, encoder) = dinov2(trials);
    let dataset = dataset(trials);
    let of = |split| features(&published, encoder.as_ref(), &dataset, split);
    let rows = |features: &[f64]| Tensor::from_slice(features).view([-1, 48]).to_kind(Kind::Float);
    let (train, labels): (Vec<Vec<f64>>, Vec<i64>) =
        of(Split::Train).into_iter().map(|(f, l)| (f, i64::from(l))).unzip();
    let config = ProbeConfig { rates: vec![0.001, 0.1, 1.0], batch: 32, steps: 200, held_back: 0.2 };
    let seed = job(trials, Foundation::Dinov2Small, &probe(), 8).settings.seed;
    let (labels, seed) = (Tensor::from_slice(&labels), Seed::root(seed).named("linear-probe"));
    let probe = Probe::train(&rows(&train.concat()), &labels, 8, &config, seed, &mut |_| true).unwrap().unwrap();
    accuracy(&of(Split::Test), |query| numbers(&probe.forward(&rows(query))).try_into().unwrap())
}

/// Accuracy in percent of the cosines with the mean of each class's normalised descriptions, each encoded by itself.
fn descriptions_by_hand(trials: &Trials, foundation: Foundation, templates: &[&str]) -> f64 {
    let folder = trials.dir.path().join(foundation.name());
    let published = Published::open(&folder, foundation).unwrap();
    let model = published.contrastive(&builder(&published)).unwrap();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let dataset = dataset(trials);
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    let describe = |class: &String| {
        let mut sum = vec![0.0; 0];
        for template in templates {
            let text = template.replace("{}", &class.replace('_', " "));
            let tokens = model.tokens(&tokenizer, &[text], Device::Cpu).unwrap();
            let embedding = numbers(&model.encode_texts(&tokens, &Ctx::eval(), &executor));
            let norm = embedding.iter().map(|v| v * v).sum::<f64>().sqrt();
            sum.resize(embedding.len(), 0.0);
            sum.iter_mut().zip(&embedding).for_each(|(sum, value)| *sum += value / norm);
        }
        sum
    };
    let classes: Vec<Vec<f64>> = dataset.classes().iter().map(describe).collect();
    let test = features(&published, &model, &dataset, Split::Test);
    accuracy(&test, |query| std::array::from_fn(|class| cosine(query, &classes[class])))
}

/// Accuracy in percent of the class whose name is likeliest per token behind the prompt, one image at a time.
fn scores_by_hand(trials: &Trials, foundation: Foundation, prompt: &str) -> f64 {
    let published = Published::open(&trials.dir.path().join(foundation.name()), foundation).unwrap();
    let speaker = Speaker::new(&published, &builder(&published)).unwrap();
    let dataset = dataset(trials);
    let names: Vec<String> = dataset.classes().iter().map(|name| name.replace('_', " ")).collect();
    let question = prompt.replace("{}", &names.join(", "));
    let answers: Vec<Vec<i64>> = names.iter().map(|name| speaker.as_answer(name).unwrap()).collect();
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    let right = (0..dataset.len(Split::Test)).filter(|i| {
        let image = dataset.decode(Split::Test, *i).unwrap();
        let read = speaker.read(&[image], &question, 0, Device::Cpu, &Ctx::eval(), &executor).unwrap();
        let scores = speaker.scores(&read, &answers, &Ctx::eval()).swap_remove(0);
        let best = (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
        best as u32 == dataset.label(Split::Test, *i)
    });
    100.0 * right.count() as f64 / dataset.len(Split::Test) as f64
}

#[test]
fn scores_are_log_probabilities_per_token() {
    let trials = Trials::new();
    let foundation = Foundation::SmolVlm256m;
    let folder = job(&trials, foundation, &knn(), 1).weights.unwrap();
    let published = Published::open(&folder, foundation).unwrap();
    let speaker = Speaker::new(&published, &builder(&published)).unwrap();
    let vocabulary = published.config()["text_config"]["vocab_size"].as_i64().unwrap();
    let image = dataset(&trials).decode(Split::Test, 0).unwrap();
    let executor = CheckpointingExecutor::uniform(BlockChoice::Keep);
    let read = speaker.read(&[image], "What is this ?", 0, Device::Cpu, &Ctx::eval(), &executor).unwrap();
    let scores = |answers: &[Vec<i64>]| speaker.scores(&read, answers, &Ctx::eval()).swap_remove(0);
    // Something must follow, and something must follow that.
    let firsts: Vec<Vec<i64>> = (0..vocabulary).map(|token| vec![token]).collect();
    let first = scores(&firsts);
    assert!((first.iter().map(|score| score.exp()).sum::<f64>() - 1.0).abs() < 1e-5);
    let pairs: Vec<Vec<i64>> = (0..vocabulary).map(|token| vec![7, token]).collect();
    let both: f64 = scores(&pairs).iter().map(|per_token| (2.0 * per_token).exp()).sum();
    assert!((both / first[7].exp() - 1.0).abs() < 1e-4, "{both} beside {}", first[7].exp());
}

fn trials_train(trials: &Trials) -> u64 {
    dataset(trials).len(Split::Train) as u64
}

#[test]
fn descriptions_classify_by_models_of_images_and_texts() {
    let trials = Trials::new();
    for foundation in [Foundation::OpenClipB32, Foundation::OpenClipB16, Foundation::SiglipBase] {
        let ended = run(&job(&trials, foundation, &zero_shot(), 8), |_, _| {});
        let by_hand = descriptions_by_hand(&trials, foundation, &["a photo of a {} texture.", "{}."]);
        assert_eq!(completed(&ended), by_hand, "{}", foundation.name());
        assert_eq!(ended.training.frozen.unwrap().texts, 16);
        assert!(ended.training.evaluation_loss.unwrap().is_finite());
        completed(&run(&job(&trials, foundation, &knn(), 8), |_, _| {}));
    }
}

#[test]
fn models_of_images_and_text_answer_in_words_and_are_scored() {
    let trials = Trials::new();
    let prompt = "What is this texture : {} ?";
    for foundation in [Foundation::SmolVlm256m, Foundation::PaliGemma3b, Foundation::MobileVlm, Foundation::MobileVlmV2]
    {
        let asked = json!({ "name": "vlm-prompt", "prompt": prompt, "new_tokens": 4 });
        let asked = run(&job(&trials, foundation, &asked, 8), |_, _| {});
        completed(&asked);
        let frozen = asked.training.frozen.as_ref().unwrap();
        assert!(!frozen.answers.is_empty() && frozen.batch == 8);
        // What a batch is made of changes nothing.
        let one = json!({ "name": "vlm-prompt", "prompt": prompt, "new_tokens": 4 });
        let one = run(&job(&trials, foundation, &one, 1), |_, _| {});
        assert_eq!(one.training.frozen.unwrap().answers, frozen.answers);
        assert_eq!(frozen.answers.iter().map(|a| a.times).sum::<u64>(), asked.training.evaluated);
        let right: u64 = frozen.answers.iter().map(|a| a.right).sum();
        assert_eq!(asked.training.top1_percent, Some(100.0 * right as f64 / asked.training.evaluated as f64));
        // Whatever its weights are, what is scored is always a class.
        let scored = run(&job(&trials, foundation, &json!({ "name": "vlm-score", "prompt": prompt }), 8), |_, _| {});
        assert_eq!(completed(&scored), scores_by_hand(&trials, foundation, prompt), "{}", foundation.name());
        assert!(scored.training.frozen.unwrap().answers.iter().all(|a| a.class.is_some()));
    }
    // An image that is cut into four tiles, with the whole behind them.
    let method = json!({ "name": "vlm-prompt", "prompt": "What is this ?", "new_tokens": 2 });
    let one = job(&trials, Foundation::SmolVlm256m, &method, 8);
    let whole = run(&one, |_, _| {});
    let processor = one.weights.clone().unwrap().join("preprocessor_config.json");
    let text = fs::read_to_string(&processor).unwrap();
    fs::write(&processor, text.replace("\"do_image_splitting\":false", "\"do_image_splitting\":true")).unwrap();
    let split = run(&one, |_, _| {});
    completed(&split);
    assert!(split.training.macs > 4 * whole.training.macs, "{} {}", split.training.macs, whole.training.macs);
    let long = json!({ "name": "vlm-prompt", "prompt": "a ".repeat(600), "new_tokens": 4 });
    let why = refused(&job(&trials, Foundation::SmolVlm256m, &long, 8));
    assert!(why.contains("and the model reads 256: name fewer classes"), "{why}");
}

#[test]
fn a_batch_that_does_not_fit_is_made_smaller_and_a_model_that_does_not_fit_says_so() {
    let trials = Trials::new();
    let with = |budget| {
        let mut job = job(&trials, Foundation::Dinov2Small, &knn(), 64);
        job.settings.budget_bytes = Some(budget);
        run(&job, |_, _| {})
    };
    let ample = with(64 << 20);
    let (top1, peak) = (completed(&ample), |e: &Ended| e.training.phases.iter().map(|p| p.peak_bytes).max().unwrap());
    let most = ample.training.evaluated as u32;
    assert_eq!(ample.training.frozen.as_ref().unwrap().batch, most, "no more than there are");
    let tight = with(peak(&ample) / 2);
    assert_eq!(completed(&tight), top1);
    let batch = tight.training.frozen.as_ref().unwrap().batch;
    assert!((1..most).contains(&batch) && peak(&tight) <= peak(&ample) / 2, "{batch}");
    let Outcome::DoesNotFit { needed_bytes, budget_bytes, .. } = with(100 << 10).outcome else { panic!("it fits") };
    assert!(needed_bytes > 0 && budget_bytes == 100 << 10);
}

#[test]
fn weights_of_fewer_bits_give_nearly_the_same_for_less_memory() {
    let trials = Trials::new();
    let with = |foundation, method: &serde_json::Value, weights: Storage| {
        let mut job = job(&trials, foundation, method, 4);
        job.settings.evaluate.weights = weights;
        run(&job, |_, _| {})
    };
    for (foundation, method) in [
        (Foundation::Dinov2Small, probe()),
        (Foundation::OpenClipB32, zero_shot()),
        (Foundation::SiglipBase, zero_shot()),
        (Foundation::SmolVlm256m, json!({ "name": "vlm-score", "prompt": "What is this ?" })),
        (Foundation::PaliGemma3b, json!({ "name": "vlm-score", "prompt": "What is this ?" })),
        (Foundation::MobileVlm, json!({ "name": "vlm-prompt", "prompt": "What is this ?", "new_tokens": 2 })),
    ] {
        let loaded = |e: &Ended| e.training.phases.iter().find(|p| p.phase == Phase::Load).unwrap().peak_bytes;
        let whole = with(foundation, &method, Storage::Fp32);
        completed(&whole);
        for weights in [Storage::Bf16, Storage::Fp16, Storage::Nf4] {
            let ended = with(foundation, &method, weights);
            completed(&ended);
            assert!(loaded(&ended) < loaded(&whole), "{} {}", foundation.name(), weights.name());
            if let (Some(one), Some(other)) = (whole.training.evaluation_loss, ended.training.evaluation_loss) {
                let most = if weights == Storage::Nf4 { 0.3 } else { 0.05 };
                assert!((one - other).abs() < most, "{} {}: {one} {other}", foundation.name(), weights.name());
            }
        }
    }
}

#[test]
fn results_that_are_no_numbers_are_told_of() {
    let trials = Trials::new();
    let mut job = job(&trials, Foundation::OpenClipB32, &zero_shot(), 4);
    let file = job.weights.clone().unwrap().join("open_clip_model.safetensors");
    let weights = Weights::read(&file).unwrap();
    // Two layers whose product is above what half precision holds, and below what single precision does.
    let large = |name: &str| name.ends_with("mlp.c_fc.weight") || name.ends_with("mlp.c_proj.weight");
    let scaled = weights.names().map(|name| {
        let tensor = weights.get(name).unwrap();
        (name.to_owned(), if large(name) { tensor * 3000.0 } else { tensor.shallow_clone() })
    });
    Weights::from_tensors(scaled.collect::<Vec<_>>()).write(&file).unwrap();
    completed(&run(&job, |_, _| {}));
    job.settings.evaluate.weights = Storage::Fp16;
    let why = refused(&job);
    assert!(why.contains("above 65,504; say weights = \"bf16\""), "{why}");
}

#[test]
fn what_is_no_such_model_is_refused_in_words() {
    let trials = Trials::new();
    let siglip = job(&trials, Foundation::SiglipBase, &zero_shot(), 8);
    let folder = siglip.weights.clone().unwrap();
    let spoilt = |file: &str, text: Option<&str>| {
        let path = folder.join(file);
        let before = fs::read(&path).unwrap();
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let why = refused(&siglip);
        fs::write(&path, before).unwrap();
        why
    };
    let has = |why: String, words: &[&str]| assert!(words.iter().all(|w| why.contains(w)), "{why}");
    has(spoilt("tokenizer.json", None), &["tokenizer.json"]);
    has(
        spoilt("config.json", Some(r#"{"model_type": "bert"}"#)),
        &["expected the model_type siglip", "found \"bert\""],
    );
    has(spoilt("config.json", None), &["config.json", "is not there; fetch it too"]);
    has(spoilt("model.safetensors", None), &["a file of weights such as model.safetensors"]);
    has(
        spoilt("preprocessor_config.json", Some(r#"{"size": {"height": 64, "width": 64}}"#)),
        &["makes images of 64 pixels", "for 32"],
    );
    let other = tokens(&folder).replace("\"a\":0", "\"a\":640");
    has(spoilt("tokenizer.json", Some(&other)), &["knows 64", "this model's?"]);
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let deeper = config.replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":3");
    has(spoilt("config.json", Some(&deeper)), &["lack 32 of the model's 120 tensors"]);
}

/// The tokenizer with the first word's token as 0.
fn tokens(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let at = text.find("\"a\":").unwrap();
    let end = text[at..].find(',').unwrap();
    format!("{}\"a\":0{}", &text[..at], &text[at + end..])
}

#[test]
fn it_ends_when_it_is_asked_to() {
    let trials = Trials::new();
    let job = job(&trials, Foundation::Dinov2Small, &knn(), 1);
    for phase in [Phase::Prepare, Phase::Evaluate] {
        assert_eq!(interrupt(&job, phase).outcome, Outcome::Cancelled);
    }
}
