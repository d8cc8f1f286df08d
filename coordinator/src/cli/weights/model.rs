//! The folder of a published model: whether all of it is there, readable, and of one model.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use fleet_checkpoint::ModelFolder;
use fleet_common::spec::{Backbone, Foundation, Gives};
use fleet_download::published::published;
use fleet_download::weights;
use fleet_tokenizer::Tokenizer;
use serde_json::Value;

use super::check::{listed, tensors};
use crate::cli::resolve::telling;

/// open_clip's configuration.
const OPEN_CLIP: &str = "open_clip_config.json";
/// transformers'.
const CONFIG: &str = "config.json";
/// Kinds of tokens where open_clip's configuration does not say: CLIP's.
const CLIP_TOKENS: u64 = 49_408;
/// How far from the published number of parameters a model may be that is to be taken for it.
const NEAR: f64 = 0.05;

/// What was found right.
pub(super) struct Found {
    name: String,
    root: PathBuf,
    files: usize,
    config: String,
    holds: Tensors,
    tokenizer: String,
    fingerprint: String,
    notes: Vec<String>,
}

/// The tensors of all files of weights.
#[derive(Default)]
struct Tensors {
    types: BTreeMap<String, usize>,
    numbers: u64,
    shapes: BTreeMap<String, Vec<u64>>,
    /// In which file each is.
    files: BTreeMap<String, String>,
}

/// The model that a folder is called after.
pub(super) fn called(folder: &Path) -> Option<Foundation> {
    let name = folder.file_name()?.to_str()?.to_owned();
    Backbone::try_from(name).ok()?.foundation()
}

/// Checks the folder at `root`, said to be of `model`.
///
/// # Errors
/// Everything that is wrong with it, each with its file, what was expected, what was found and what to do.
pub(super) fn check(root: &Path, model: Option<Foundation>) -> Result<Found, String> {
    let where_from = |why: String| match model.map(published) {
        Some(p) => format!("{why}. Needed are: {}. They come from {}", p.files, p.page),
        None => why,
    };
    let folder = ModelFolder::open(root).map_err(|e| where_from(e.to_string()))?;
    let mut wrong = Vec::new();
    let holds = read(&folder, &mut wrong);
    let (config, settings) = configuration(&folder, model, &holds, &mut wrong);
    let tokenizer = match needs_tokenizer(model, &settings) {
        true => tokens(&folder, &settings, &holds, &mut wrong),
        false => "none is needed".to_owned(),
    };
    let mobile = matches!(model, Some(Foundation::MobileVlm | Foundation::MobileVlmV2));
    if mobile && !holds.shapes.keys().any(|name| name.contains("vision_tower.")) {
        wrong.push(format!(
            "{}: expected the vision tower (tensors model.vision_tower.…, of openai/clip-vit-large-patch14-336) among the \
             weights, found none; fetch weights that have it",
            root.display()
        ));
    }
    if !wrong.is_empty() {
        let told: Vec<String> = wrong.iter().map(|why| plain(why)).collect();
        return Err(where_from(told.join("\nerror: ")));
    }
    let name = root.file_name().map_or_else(|| root.display().to_string(), |n| n.to_string_lossy().into_owned());
    let fingerprint = telling(&name, |tell| folder.fingerprint(tell)).map_err(|e| e.to_string())?;
    let notes = model.and_then(|model| unlike(model, holds.numbers)).into_iter().collect();
    Ok(Found { name, root: root.to_owned(), files: folder.files().len(), config, holds, tokenizer, fingerprint, notes })
}

/// A text that may hold names from a stranger's file: they must not steer this terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Reads what all files of weights say of themselves, and whether that is what their index says.
fn read(folder: &ModelFolder, wrong: &mut Vec<String>) -> Tensors {
    let (mut all, before) = (Tensors::default(), wrong.len());
    for file in folder.weights() {
        let short = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match weights::read(&file) {
            Err(why) => wrong.push(why.to_string()),
            Ok(holds) => {
                holds.types.into_iter().for_each(|(name, count)| *all.types.entry(name).or_default() += count);
                all.numbers += holds.numbers;
                for (name, shape) in holds.shapes {
                    if let Some(other) = all.files.insert(name.clone(), short.clone()) {
                        wrong.push(format!(
                            "{}: the tensor {name} is in it and in {other}, too; expected each once. Fetch both again",
                            file.display()
                        ));
                    }
                    all.shapes.insert(name, shape);
                }
            }
        }
    }
    let index = folder.files().into_iter().find(|name| name.ends_with(".index.json"));
    if let (Some(index), true) = (index, wrong.len() == before) {
        against_index(folder, index, &all, wrong);
    }
    all
}

/// Whether each tensor is in the file in which the index has it.
fn against_index(folder: &ModelFolder, index: &str, all: &Tensors, wrong: &mut Vec<String>) {
    let document = match folder.json(index) {
        Ok(document) => document.unwrap_or_default(),
        Err(why) => return wrong.push(why.to_string()),
    };
    let says = document["weight_map"].as_object().into_iter().flatten();
    let lacking: Vec<String> = says
        .filter(|(name, file)| all.files.get(*name).map(String::as_str) != file.as_str())
        .map(|(name, file)| format!("{name} in {}", file.as_str().unwrap_or("?")))
        .collect();
    if !lacking.is_empty() {
        wrong.push(format!(
            "{}: it has {}, where they are not. The files are not of one model: fetch all of them again",
            folder.root().join(index).display(),
            listed(&lacking)
        ));
    }
}

/// Which configuration there is, in words, and what it says.
fn configuration(
    folder: &ModelFolder,
    model: Option<Foundation>,
    holds: &Tensors,
    wrong: &mut Vec<String>,
) -> (String, Value) {
    let mut json = |name: &str| {
        folder.json(name).unwrap_or_else(|why| {
            wrong.push(why.to_string());
            Some(Value::Null)
        })
    };
    let (open_clip, config) = (json(OPEN_CLIP), json(CONFIG));
    let place = |name: &str| folder.root().join(name).display().to_string();
    if let Some(open_clip) = open_clip {
        // open_clip's names begin with `visual.`, transformers' with `vision_model.`.
        let names = |start: &str| holds.shapes.keys().any(|name| name.starts_with(start));
        if names("vision_model.") && !names("visual.") {
            wrong.push(format!(
                "{}: it is open_clip's, and {} is transformers'; expected both of one layout. Move {OPEN_CLIP} away, or the \
                 weights, and put open_clip_model.safetensors or open_clip_pytorch_model.bin there",
                place(OPEN_CLIP),
                folder.weights().map(|f| f.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect::<Vec<_>>().join(", "),
            ));
        }
        if model.is_some_and(|model| model.gives() != Gives::Embeddings) {
            wrong.push(format!("{}: expected no configuration of open_clip, for another model's", place(OPEN_CLIP)));
        }
        return (format!("{OPEN_CLIP} (open_clip)"), open_clip);
    }
    match config {
        Some(config) => {
            let kind = config["model_type"].as_str();
            let found = kind.unwrap_or("none").to_owned();
            let kinds = model.map_or(&[][..], kinds);
            // CLIP and SigLIP are told apart by it alone.
            let matters = kind.is_some() || model.is_some_and(|model| model.gives() == Gives::Embeddings);
            if !config.is_null() && matters && !kinds.is_empty() && !kinds.contains(&found.as_str()) {
                wrong.push(format!(
                    "{}: expected a model_type of {}, found {found}; it is of another model. Fetch the files again",
                    place(CONFIG),
                    kinds.join(" or ")
                ));
            }
            (format!("{CONFIG} ({found})"), config)
        }
        // Its authors publish one file, whose shapes say all.
        None if model.is_some_and(|model| model.gives() == Gives::Features) => {
            ("none, and none is needed".to_owned(), Value::Null)
        }
        None => {
            wrong.push(format!("{}: expected it beside the weights, found none; fetch it too", place(CONFIG)));
            (String::new(), Value::Null)
        }
    }
}

/// What transformers call a model, where all that publish it call it so.
const fn kinds(model: Foundation) -> &'static [&'static str] {
    match model {
        Foundation::OpenClipB32 | Foundation::OpenClipB16 | Foundation::OpenClipL14 => &["clip"],
        Foundation::SiglipBase | Foundation::SiglipLarge => &["siglip"],
        Foundation::Dinov2Small | Foundation::Dinov2Base | Foundation::Dinov2Large => &["dinov2"],
        Foundation::SmolVlm256m | Foundation::SmolVlm500m => &["idefics3", "smolvlm"],
        Foundation::PaliGemma3b => &["paligemma"],
        Foundation::MobileVlm | Foundation::MobileVlmV2 => &[],
    }
}

fn needs_tokenizer(model: Option<Foundation>, settings: &Value) -> bool {
    match model {
        Some(model) => model.gives() != Gives::Features,
        None => !settings.is_null() && settings["model_type"] != "dinov2",
    }
}

/// The tokenizer in words, if the model knows all of its tokens.
fn tokens(folder: &ModelFolder, settings: &Value, holds: &Tensors, wrong: &mut Vec<String>) -> String {
    let tokenizer = match Tokenizer::open(folder.root()) {
        Ok(tokenizer) => tokenizer,
        Err(why) => {
            wrong.push(why.to_string());
            return String::new();
        }
    };
    let (has, knows) = (tokenizer.size() as u64, vocabulary(settings, holds));
    match knows {
        Some((knows, says)) if has > knows => {
            wrong.push(format!(
                "{}: expected a tokenizer of at most {knows} tokens, which {says} says that the model knows, found one of {has}; \
                 it is of another model. Fetch it from the model's page",
                folder.root().display()
            ));
            String::new()
        }
        Some((knows, _)) => format!("{has} tokens, of {knows} that the model knows"),
        None => format!("{has} tokens"),
    }
}

/// How many kinds of tokens the model knows, and where that stands: the least of what its configuration and its table of
/// embeddings say.
fn vocabulary(settings: &Value, holds: &Tensors) -> Option<(u64, String)> {
    let open_clip = &settings["model_cfg"]["text_cfg"];
    let said = [&settings["text_config"]["vocab_size"], &settings["vocab_size"], &open_clip["vocab_size"]];
    let said = said.into_iter().find_map(Value::as_u64).or_else(|| open_clip.is_object().then_some(CLIP_TOKENS));
    let tables = ["token_embedding.weight", "embed_tokens.weight"];
    let table = holds.shapes.iter().find(|(name, _)| tables.iter().any(|end| name.ends_with(end)));
    let rows = table.and_then(|(name, shape)| Some((*shape.first()?, name.clone())));
    said.map(|said| (said, "its configuration".to_owned())).into_iter().chain(rows).min_by_key(|(known, _)| *known)
}

/// That it is of another size than the public model, which it may well be.
fn unlike(model: Foundation, numbers: u64) -> Option<String> {
    let (found, public) = (numbers as f64 / 1e6, model.millions());
    ((found / public - 1.0).abs() > NEAR).then(|| {
        format!(
            "the public model has about {public} million parameters, this one {found:.1} million: it is another one"
        )
    })
}

impl Found {
    /// Says it.
    pub(super) fn say(&self) {
        let Tensors { types, numbers, shapes, .. } = &self.holds;
        let line = |head: &str, text: &dyn Display| say!("  {head:<12}{text}");
        say!("{}", self.name);
        let files = if self.files == 1 { "file" } else { "files" };
        line("place", &format_args!("{}, {} {files}", self.root.display(), self.files));
        line("config", &plain(&self.config));
        line("tensors", &tensors(shapes.len(), types, *numbers));
        line("tokenizer", &self.tokenizer);
        line("checked", &"headers only; no hashes of the public files are known here to compare with");
        line("fingerprint", &self.fingerprint);
        self.notes.iter().for_each(|note| line("note", note));
    }
}
