//! Folders of published models, small and with random weights, in their publishers' layouts: the tensors are those of the
//! repository's reference fixtures, which have the public names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fleet_common::spec::Foundation;
use serde_json::{Value, json};

/// Words that a small tokenizer knows; all others are one token.
const WORDS: [&str; 36] = [
    "a",
    "an",
    "the",
    "of",
    "is",
    "that",
    "photo",
    "picture",
    "image",
    "photograph",
    "texture",
    "pattern",
    "surface",
    "looks",
    ".",
    ",",
    ":",
    "?",
    "this",
    "what",
    "answer",
    "with",
    "only",
    "banded",
    "dotted",
    "striped",
    "woven",
    "lined",
    "grid",
    "apple",
    "bear",
    "chair",
    "cloud",
    "maple",
    "tree",
    "noise",
];

/// Writes the folder of a small model that looks like `foundation`'s below `weights`, from the reference `fixtures`; where
/// it is.
///
/// # Panics
/// The folder cannot be written.
pub fn write(fixtures: &Path, weights: &Path, foundation: Foundation) -> PathBuf {
    let dir = weights.join(foundation.name());
    fs::create_dir_all(&dir).expect("a folder");
    let (fixture, file) = fixture(foundation);
    let from = fixtures.join(fixture);
    fs::copy(from.join("weights.safetensors"), dir.join(file)).expect("the fixture's weights");
    let text = fs::read(from.join("config.json")).expect("the fixture's configuration");
    let config: Value = serde_json::from_slice(&text).expect("JSON");
    for (name, value) in files(foundation, &config) {
        fs::write(dir.join(name), value.to_string()).expect("writes");
    }
    dir
}

/// Whose tensors it has, and what its publisher calls the file.
fn fixture(foundation: Foundation) -> (&'static str, &'static str) {
    use Foundation as F;
    match foundation {
        F::OpenClipB32 | F::OpenClipL14 => ("openclip_tiny", "open_clip_model.safetensors"),
        F::OpenClipB16 => ("openclip_tiny_quickgelu", "open_clip_model.safetensors"),
        F::SiglipBase | F::SiglipLarge => ("siglip_tiny", "model.safetensors"),
        F::Dinov2Small | F::Dinov2Base | F::Dinov2Large => ("dinov2_hf_tiny", "model.safetensors"),
        F::SmolVlm256m | F::SmolVlm500m => ("smolvlm_tiny", "model.safetensors"),
        F::PaliGemma3b => ("paligemma_tiny", "model.safetensors"),
        F::MobileVlm => ("mobilevlm_tiny", "model.safetensors"),
        F::MobileVlmV2 => ("mobilevlm_v2_tiny", "model.safetensors"),
    }
}

/// Its other files.
fn files(foundation: Foundation, config: &Value) -> Vec<(&'static str, Value)> {
    use Foundation as F;
    let of = |keys: &[&str]| Value::Object(keys.iter().map(|k| ((*k).to_owned(), config[*k].clone())).collect());
    let with = |mut config: Value, more: Value| {
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        config
    };
    let square = |side: &Value| json!({ "height": side, "width": side });
    let halves = json!({ "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3 });
    let vision = &config["vision_config"];
    match foundation {
        F::OpenClipB32 | F::OpenClipB16 | F::OpenClipL14 => vec![
            (
                "open_clip_config.json",
                json!({ "model_cfg": of(&["embed_dim", "vision_cfg", "text_cfg", "quick_gelu"]),
                        "preprocess_cfg": { "mean": [0.481, 0.457, 0.408], "std": [0.268, 0.261, 0.275] } }),
            ),
            ("tokenizer.json", tokenizer(64, &[("<start_of_text>", 62), ("<end_of_text>", 63)])),
        ],
        F::SiglipBase | F::SiglipLarge => vec![
            ("config.json", with(of(&["text_config", "vision_config"]), json!({ "model_type": "siglip" }))),
            ("preprocessor_config.json", with(halves, json!({ "size": square(&vision["image_size"]) }))),
            ("tokenizer.json", tokenizer(64, &[("</s>", 1)])),
        ],
        F::Dinov2Small | F::Dinov2Base | F::Dinov2Large => vec![
            (
                "config.json",
                with(
                    of(&[
                        "hidden_size",
                        "image_size",
                        "layer_norm_eps",
                        "mlp_ratio",
                        "num_attention_heads",
                        "num_hidden_layers",
                        "patch_size",
                    ]),
                    json!({ "model_type": "dinov2" }),
                ),
            ),
            (
                "preprocessor_config.json",
                json!({ "crop_size": { "height": 56, "width": 56 }, "do_center_crop": true, "resample": 3,
                        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
                        "size": { "shortest_edge": 64 } }),
            ),
        ],
        F::SmolVlm256m | F::SmolVlm500m => vec![
            (
                "config.json",
                with(
                    of(&["text_config", "vision_config", "scale_factor", "image_token_id"]),
                    json!({ "model_type": "idefics3" }),
                ),
            ),
            (
                "preprocessor_config.json",
                with(
                    halves,
                    json!({ "size": { "longest_edge": 64 }, "do_image_splitting": false,
                                     "max_image_size": { "longest_edge": vision["image_size"] } }),
                ),
            ),
            (
                "tokenizer.json",
                tokenizer(
                    128,
                    &[
                        ("<|im_start|>", 1),
                        ("<end_of_utterance>", 2),
                        ("<image>", 120),
                        ("<fake_token_around_image>", 121),
                        ("<global-img>", 122),
                        ("<row_1_col_1>", 123),
                    ],
                ),
            ),
        ],
        F::PaliGemma3b => vec![
            (
                "config.json",
                with(
                    of(&["text_config", "vision_config", "image_token_id"]),
                    json!({ "model_type": "paligemma", "image_token_index": config["image_token_id"] }),
                ),
            ),
            ("preprocessor_config.json", with(halves, json!({ "size": square(&vision["image_size"]) }))),
            ("tokenizer.json", tokenizer(128, &[("<pad>", 0), ("<eos>", 1), ("<bos>", 2), ("<image>", 127)])),
        ],
        F::MobileVlm | F::MobileVlmV2 => vec![
            (
                "config.json",
                with(
                    config["text_config"].clone(),
                    json!({ "model_type": "mobilevlm", "mm_projector_type": config["projector_type"],
                             "vision_config": config["vision_config"] }),
                ),
            ),
            ("tokenizer.json", tokenizer(128, &[("<s>", 1), ("</s>", 2)])),
        ],
    }
}

/// A tokenizer of whole words with fewer than `most` tokens, as `tokenizer.json`.
fn tokenizer(most: usize, special: &[(&str, usize)]) -> Value {
    let mut free = (0..most).filter(|id| special.iter().all(|(_, taken)| taken != id));
    let mut vocabulary: BTreeMap<String, usize> = special.iter().map(|(t, id)| ((*t).to_owned(), *id)).collect();
    vocabulary.extend(["<unk>"].into_iter().chain(WORDS).map(str::to_owned).zip(&mut free));
    let added: Vec<Value> = special
        .iter()
        .map(|(content, id)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" }
    })
}
