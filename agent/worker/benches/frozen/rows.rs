//! What is compared: a model by its published configuration, as small as a reference's or at a size that people use, and
//! what it is to do. Either side reads the same row.

use std::rc::Rc;

use fleet_common::record::BlockChoice;
use fleet_worker::checkpointing::CheckpointingExecutor;
use fleet_worker::models::clip::{Clip, ClipNames};
use fleet_worker::models::config;
use fleet_worker::models::dinov2::{Dinov2, Dinov2Names};
use fleet_worker::models::paligemma::PaliGemma;
use fleet_worker::models::siglip::Siglip;
use fleet_worker::models::smolvlm::SmolVlm;
use fleet_worker::models::vlm::{Vlm, read};
use fleet_worker::nn::{BuildError, Builder, Ctx, Seed};
use fleet_worker::peft::Frozen;
use serde::Serialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

pub(crate) const EVAL: Ctx<'static> = Ctx::eval();

pub(crate) fn executor() -> CheckpointingExecutor {
    CheckpointingExecutor::uniform(BlockChoice::Keep)
}

pub(crate) fn builder() -> Builder {
    Builder::new(Rc::new(Frozen::default()), None, Seed::root(1), Device::Cpu, Kind::Float)
}

/// What a model does.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// Encodes images.
    Images,
    /// Encodes texts of the model's whole context.
    Texts,
    /// Reads an image with a question of so many tokens, and goes on greedily for so many.
    Answer { question: i64, tokens: i64 },
}

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What the table calls it.
    pub(crate) name: &'static str,
    /// Which reader and which class.
    pub(crate) architecture: &'static str,
    /// As transformers or open_clip writes it.
    pub(crate) config: Value,
    pub(crate) task: Task,
    /// Images, texts or questions at once.
    pub(crate) batch: i64,
}

/// A model at work, and how many parameters it has.
pub(crate) struct Ours {
    pub(crate) run: Box<dyn Fn()>,
    pub(crate) parameters: u64,
}

impl Row {
    /// Our side of it, on random weights and inputs.
    pub(crate) fn ours(&self) -> Result<Ours, BuildError> {
        let (b, batch) = (builder(), self.batch);
        let pictures = |side: i64| Tensor::rand([batch, 3, side, side], (Kind::Float, Device::Cpu));
        let words =
            |vocabulary: i64, tokens: i64| Tensor::randint(vocabulary, [batch, tokens], (Kind::Int64, Device::Cpu));
        let run: Box<dyn Fn()> = match (self.architecture, self.task) {
            ("dinov2", _) => {
                let sizes = config::dinov2(&self.config);
                let (model, images) = (Dinov2::new(&b, Dinov2Names::Hf, &sizes), pictures(sizes.image_size));
                Box::new(move || drop(model.forward(&images, &EVAL, &executor())))
            }
            ("open_clip", task) => {
                let sizes = config::open_clip(&self.config);
                let model = Clip::new(&b, ClipNames::OpenClip, &sizes.vision, &sizes.text, sizes.embedding);
                let (images, texts) =
                    (pictures(sizes.vision.image_size), words(sizes.text.vocabulary, sizes.text.context));
                match task {
                    Task::Texts => Box::new(move || drop(model.encode_texts(&texts, &EVAL, &executor()))),
                    _ => Box::new(move || drop(model.encode_images(&images, &EVAL, &executor()))),
                }
            }
            ("siglip", task) => {
                let sizes = config::siglip(&self.config);
                let model = Siglip::new(&b, &sizes.vision, &sizes.text);
                let (images, texts) =
                    (pictures(sizes.vision.image_size), words(sizes.text.vocabulary, sizes.text.context));
                match task {
                    Task::Texts => Box::new(move || drop(model.encode_texts(&texts, &EVAL, &executor()))),
                    _ => Box::new(move || drop(model.encode_images(&images, &EVAL, &executor()))),
                }
            }
            ("smolvlm", Task::Answer { question, tokens }) => {
                let sizes = config::smolvlm(&self.config);
                let images = pictures(sizes.vision.image_size);
                let question = words(sizes.text.vocabulary / 2, question);
                answering(Box::new(SmolVlm::new(&b, &sizes)), images, question, tokens)
            }
            ("paligemma", Task::Answer { question, tokens }) => {
                let sizes = config::paligemma(&self.config);
                let images = pictures(sizes.vision.image_size);
                let question = words(sizes.text.vocabulary / 2, question);
                answering(Box::new(PaliGemma::new(&b, &sizes)), images, question, tokens)
            }
            (other, task) => panic!("no model \"{other}\" does {task:?}"),
        };
        let (parameters, _) = b.finish()?;
        Ok(Ours { run, parameters: parameters.count() })
    }
}

fn answering(model: Box<dyn Vlm>, images: Tensor, question: Tensor, tokens: i64) -> Box<dyn Fn()> {
    Box::new(move || {
        let seen = model.image_tokens(&images, &EVAL, &executor());
        let x = Tensor::cat(&[seen, model.decoder().embed(&question)], 1);
        drop(read(model.as_ref(), x, &EVAL).answers(model.as_ref(), tokens as usize, &[], &EVAL));
    })
}

/// All rows: each model as small as its reference folder, and at a size of its family.
pub(crate) fn rows() -> Vec<Row> {
    let row = |name, architecture, task, batch, config: &Value| Row {
        name,
        architecture,
        config: config.clone(),
        task,
        batch,
    };
    let (images, texts) = (Task::Images, Task::Texts);
    let vision = |width: i64, depth: i64, heads: i64, hidden: i64, side: i64, patch: i64| {
        json!({"model_type": "siglip_vision_model", "hidden_size": width, "num_hidden_layers": depth,
               "num_attention_heads": heads, "intermediate_size": hidden, "image_size": side, "patch_size": patch})
    };
    let dinov2 = |width: i64, depth: i64, heads: i64, side: i64| {
        json!({"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": side,
               "patch_size": 14})
    };
    let clip_tiny = json!({"embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 48, "heads": 3, "layers": 2}});
    let clip = json!({"embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}});
    let siglip_tiny = json!({"vision_config": vision(48, 2, 3, 96, 32, 8),
        "text_config": {"model_type": "siglip_text_model", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
                        "intermediate_size": 96, "max_position_embeddings": 16, "vocab_size": 64, "projection_size": 48}});
    let siglip = json!({"vision_config": vision(768, 12, 12, 3072, 224, 16),
        "text_config": {"model_type": "siglip_text_model", "hidden_size": 768, "num_hidden_layers": 12,
                        "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 64,
                        "vocab_size": 32000, "projection_size": 768}});
    let llama = |width: i64, depth: i64, heads: [i64; 2], hidden: i64, vocabulary: i64| {
        json!({"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads[0],
               "num_key_value_heads": heads[1], "intermediate_size": hidden, "vocab_size": vocabulary, "rope_theta": 1e5,
               "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "pad_token_id": 2, "tie_word_embeddings": false})
    };
    let smolvlm = |vision: Value, text: Value, shuffle: i64| {
        let image = text["vocab_size"].as_i64().unwrap_or_default() - 1;
        json!({"vision_config": vision, "text_config": text, "scale_factor": shuffle, "image_token_id": image,
               "pad_token_id": 2, "tie_word_embeddings": false})
    };
    let smolvlm_tiny = smolvlm(vision(48, 2, 3, 96, 32, 8), llama(48, 2, [4, 2], 96, 128), 2);
    let smolvlm_256m = smolvlm(vision(768, 12, 12, 3072, 512, 16), llama(576, 30, [9, 3], 1536, 49280), 4);
    let gemma = |width: i64, depth: i64, heads: i64, head: i64, hidden: i64, vocabulary: i64| {
        json!({"model_type": "gemma", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
               "num_key_value_heads": 1, "head_dim": head, "intermediate_size": hidden, "vocab_size": vocabulary,
               "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0})
    };
    let paligemma = |mut vision: Value, text: Value| {
        let (width, image) = (text["hidden_size"].clone(), text["vocab_size"].as_i64().unwrap_or_default() - 1);
        vision["vision_use_head"] = false.into();
        vision["projection_dim"] = width.clone();
        json!({"vision_config": vision, "text_config": text, "projection_dim": width, "hidden_size": width,
               "image_token_index": image})
    };
    let paligemma_tiny = paligemma(vision(48, 2, 3, 96, 28, 14), gemma(32, 2, 2, 16, 64, 128));
    let paligemma_medium = paligemma(vision(576, 12, 8, 2152, 224, 14), gemma(1024, 8, 8, 128, 4096, 32_000));
    let brief = Task::Answer { question: 12, tokens: 8 };
    let answer = Task::Answer { question: 190, tokens: 8 };
    vec![
        row("DINOv2, 2 blocks of 48", "dinov2", images, 3, &dinov2(48, 2, 3, 56)),
        row("DINOv2 ViT-S/14", "dinov2", images, 8, &dinov2(384, 12, 6, 224)),
        row("OpenCLIP, 2 blocks of 64", "open_clip", images, 3, &clip_tiny),
        row("OpenCLIP, 2 blocks of 48", "open_clip", texts, 4, &clip_tiny),
        row("OpenCLIP ViT-B/32", "open_clip", images, 8, &clip),
        row("OpenCLIP ViT-B/32", "open_clip", texts, 32, &clip),
        row("SigLIP, 2 blocks of 48", "siglip", images, 3, &siglip_tiny),
        row("SigLIP, 2 blocks of 48", "siglip", texts, 4, &siglip_tiny),
        row("SigLIP base/16", "siglip", images, 8, &siglip),
        row("SigLIP base/16", "siglip", texts, 16, &siglip),
        row("SmolVLM, 2 and 2 blocks of 48", "smolvlm", brief, 1, &smolvlm_tiny),
        row("SmolVLM-256M, one tile", "smolvlm", answer, 1, &smolvlm_256m),
        row("SmolVLM-256M, one tile", "smolvlm", answer, 4, &smolvlm_256m),
        row("PaliGemma, 2 and 2 blocks of 48 and 32", "paligemma", brief, 1, &paligemma_tiny),
        row("PaliGemma, 12 and 8 blocks of 576 and 1024", "paligemma", answer, 4, &paligemma_medium),
    ]
}
