//! Writes what fuzzers begin with: a few inputs of each target that mean something, from our own types and from files
//! that other tests keep. `cargo run -p fleet-fuzz --bin seeds -- FOLDER` writes `FOLDER/TARGET/NAME`.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_checkpoint::ModelFolder;
use fleet_common::wire::v1;
use fleet_common::wire::v1::journal_event::Event as E;
use fleet_content::{Digest, Entry, Item, Manifest};
use fleet_coordinator::store::journal::{Found, MAGIC, Scanner};
use fleet_secure::credentials::Credentials;
use fleet_secure::token::{Secret, Token};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let out = std::env::args_os().nth(1).map(PathBuf::from).ok_or("expected a folder: seeds FOLDER")?;
    let seeds = Seeds { root: Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), out };
    seeds.campaigns()?;
    seeds.checkpoints()?;
    seeds.weights()?;
    seeds.stored()?;
    seeds.messages()?;
    seeds.images()?;
    seeds.hub()?;
    seeds.manifests()?;
    seeds.secure()?;
    seeds.choices()
}

struct Seeds {
    root: PathBuf,
    out: PathBuf,
}

impl Seeds {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) -> Fallible<()> {
        let folder = self.out.join(target);
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(name), bytes)?)
    }

    fn campaigns(&self) -> Fallible<()> {
        for (name, text) in CAMPAIGNS {
            self.put("campaign", name, text.as_bytes())?;
        }
        let lists = b"banded/banded_1.jpg\n\ndotted/dotted_1.jpg\n\0banded/banded_2.jpg\n\0dotted/d \xc3\xa4.jpg\r\n";
        self.put("lists", "all", lists)
    }

    fn checkpoints(&self) -> Fallible<()> {
        let samples = self.root.join("common/checkpoint/tests/samples");
        for name in ["kinds-legacy.pth", "views.pth", "odd.pth", "packed.pth", "views-protocol5-legacy.pth"] {
            self.put("checkpoint", name, &std::fs::read(samples.join(name))?)?;
        }
        // The pickles of archives whose entries are stored as they are.
        for name in ["views.pth", "odd.pth", "views-protocol4.pth", "trained.pth"] {
            let bytes = std::fs::read(samples.join(name))?;
            let begin = bytes.windows(2).position(|w| w == b"\x80\x02" || w == b"\x80\x04").ok_or("no pickle")?;
            let end = bytes[begin..].windows(4).position(|w| w == b"PK\x07\x08" || w == b"PK\x03\x04");
            self.put("pickle", name, &bytes[begin..begin + end.ok_or("no end")?])?;
        }
        Ok(())
    }

    fn weights(&self) -> Fallible<()> {
        let header = concat!(
            r#"{"__metadata__":{"fleet":"{}"},"a.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"#,
            r#""b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},"c":{"dtype":"I64","shape":[0,3],"data_offsets":[10,10]}}"#,
        );
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[7; 10]].concat();
        self.put("weights", "three", &file)?;
        let lora = concat!(
            r#"{"peft_type":"LORA","r":8,"lora_alpha":16,"lora_dropout":0.1,"use_rslora":true,"bias":"none","rank_pattern":{}}"#,
            "\0base_model.model.blocks.0.attn.qkv.lora_A.weight\nbase_model.model.blocks.0.attn.qkv.lora_B.weight\n",
            "base_model.model.head.modules_to_save.weight\n",
        );
        self.put("adapter", "lora", lora.as_bytes())?;
        let ada = concat!(
            r#"{"peft_type":"ADALORA","init_r":12,"lora_alpha":32,"rank_pattern":null,"fan_in_fan_out":false}"#,
            "\0blocks.0.mlp.fc1.lora_A.default\nblocks.0.mlp.fc1.lora_B.default\nblocks.0.mlp.fc1.lora_E.default\n",
        );
        self.put("adapter", "adalora", ada.as_bytes())
    }

    /// A state that earlier tests have written: its journal, its events, its records.
    fn stored(&self) -> Fallible<()> {
        let state = self.root.join("coordinator/tests/fixtures/state-2");
        let segment = std::fs::read(state.join("journal/00000000000000000001.log"))?;
        let bytes = segment.strip_prefix(MAGIC).ok_or("no segment")?;
        self.put("journal", "short", &bytes[..bytes.len().min(4000)])?;
        let mut scanner = Scanner::new(bytes, 0, 0);
        while let Some(Found::Record { sequence, payload, .. }) = scanner.advance()? {
            if payload.len() < 1500 {
                self.put("messages", &format!("event-{sequence}"), &[&[3], payload].concat())?;
            }
            if let Some(E::TrialRecorded(r)) = v1::JournalEvent::decode(payload)?.event {
                self.put("records", &format!("record-{sequence}"), &r.record_json)?;
            }
        }
        Ok(())
    }

    fn messages(&self) -> Fallible<()> {
        let id = v1::TrialId { cell: "0".repeat(32), repeat: 1, hardware: Some("A 1".to_owned()) };
        let trial = Some(id.clone());
        let lease = v1::HeldLease { trial: trial.clone(), attempt: 1, slot: "cuda:0".to_owned() };
        let batch = v1::SampleBatch {
            trial,
            attempt: 1,
            first_number: 7,
            at_nanos: vec![10, 20],
            series: vec![1, 3],
            value: vec![5, -6],
            ..Default::default()
        };
        self.put("messages", "trial", &[vec![0], id.encode_to_vec()].concat())?;
        self.put("messages", "lease", &[vec![1], lease.encode_to_vec()].concat())?;
        self.put("messages", "batch", &[vec![2], batch.encode_to_vec()].concat())
    }

    fn images(&self) -> Fallible<()> {
        let pixel = |x: u32, y: u32| image::Rgb([(x * 37 % 251) as u8, (y * 91 % 241) as u8, 9]);
        let picture = image::DynamicImage::from(image::RgbImage::from_fn(9, 7, pixel));
        for format in
            [image::ImageFormat::Jpeg, image::ImageFormat::Png, image::ImageFormat::WebP, image::ImageFormat::Bmp]
        {
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, format)?;
            self.put("image", format.extensions_str()[0], bytes.get_ref())?;
            picture.to_luma8().write_to(&mut bytes, format).ok();
            self.put("image", &format!("grey-{}", format.extensions_str()[0]), bytes.get_ref())?;
        }
        Ok(())
    }

    /// Files as the hub's `datasets` library writes them, of one row, and one with neither names nor compression. DTD's
    /// image is not named: both halves are this file, and would have the same image twice.
    fn hub(&self) -> Fallible<()> {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let mut png = Cursor::new(Vec::new());
        picture.write_to(&mut png, image::ImageFormat::Png)?;
        let names = r#"{"info":{"features":{"label":{"names":["lined","dotted"],"_type":"ClassLabel"}}}}"#;
        let named = Some("folder/a.png");
        let cifar =
            parquet_file("img", &["fine_label", "coarse_label"], Compression::SNAPPY, None, named, png.get_ref())?;
        self.put("hub", "cifar", &[&[0], &cifar[..]].concat())?;
        let dtd = parquet_file(
            "image",
            &["label"],
            Compression::ZSTD(ZstdLevel::default()),
            Some(names),
            None,
            png.get_ref(),
        )?;
        self.put("hub", "dtd", &[&[1], &dtd[..]].concat())?;
        let plain = parquet_file("image", &["label"], Compression::UNCOMPRESSED, None, named, b"no image")?;
        self.put("hub", "plain", &[&[1], &plain[..]].concat())
    }

    fn manifests(&self) -> Fallible<()> {
        let digest = |n: u8| -> Result<Digest, String> { format!("{n:02x}").repeat(32).parse() };
        let file = |path: &str, bytes, n| -> Result<Entry, String> {
            Ok(Entry { path: path.to_owned().try_into()?, bytes, sha256: digest(n)? })
        };
        let weights = Manifest::new(Item::Weights(digest(1)?), "a.pth".to_owned(), vec![file("a.pth", 7, 1)?])?;
        self.put("manifest", "weights", &weights.to_json())?;
        let files = vec![file("images/train/a/1.png", 5, 2)?, file("images/test/a/1.png", 5, 2)?];
        let folder = Manifest::new(Item::Dataset(digest(3)?), "./images".to_owned(), files)?;
        self.put("manifest", "folder", &folder.to_json())?;
        let files = vec![file("config.json", 2, 7)?, file("model.safetensors", 9, 8)?];
        let hashes = [digest(7)?, digest(8)?];
        let named = hashes.iter().map(Digest::as_str).zip(["config.json", "model.safetensors"]);
        let model = Item::Model(ModelFolder::fingerprint_of(named).parse()?);
        self.put("manifest", "model", &Manifest::new(model, "dinov2_small".to_owned(), files)?.to_json())?;
        let files = vec![file("textures-1/labels/train1.txt", 0, 4)?, file("textures-1/labels/test1.txt", 9, 5)?];
        let textures = Manifest::new(Item::Dataset(digest(6)?), "textures-1".to_owned(), files)?;
        self.put("manifest", "textures", &textures.to_json())
    }

    fn secure(&self) -> Fallible<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "10.0.0.1".to_owned()])?;
        let name = "netscore-fleet://agent/agent-1".try_into()?;
        params.subject_alt_names.push(rcgen::SanType::URI(name));
        let request = params.serialize_request(&key)?;
        let certificate = params.self_signed(&key)?.der().clone();
        self.put("secure", "certificate", &[&[0], &certificate[..]].concat())?;
        self.put("secure", "request", &[&[1], &request.der()[..]].concat())?;
        let file = self.out.join("secure/credentials");
        let coordinator = "https://10.0.0.5:7070".to_owned();
        Credentials::new(certificate.clone(), &key, certificate, Some(coordinator.clone())).save(&file)?;
        // No key is kept, not even one that opens nothing.
        let text = std::fs::read_to_string(&file)?;
        let (head, rest) = text.split_once("-----BEGIN PRIVATE KEY-----\n").ok_or("no key")?;
        let (_, tail) = rest.split_once("-----END PRIVATE KEY-----").ok_or("no key")?;
        let text = format!("{head}-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----{tail}");
        self.put("secure", "credentials", &[&[2], text.as_bytes()].concat())?;
        let token = Token { coordinator, authority: [7; 32], secret: Secret::from_bytes(&[9; 20]).ok_or("20 bytes")? };
        self.put("secure", "token", &[&[3], token.reveal().as_bytes()].concat())?;
        self.put("secure", "parts", &[&[4; 40], &b"https://a:1"[..]].concat())
    }

    /// For targets that take their bytes as choices, any will do.
    fn choices(&self) -> Fallible<()> {
        let submitted = [0, 7, 0, 0, 3, 0, 1, 2, 0, 0, 0];
        let lives = [2, 0, 1, 0, 0, 5, 0, 1, 1, 0, 2, 0, 2, 1, 1, 6, 0, 2, 0, 0, 0, 1, 8, 1, 1, 0, 10, 0, 0, 1, 0];
        let story = [&submitted[..], &lives, &[1, 0, 13, 0, 1, 1, 0, 11, 0, 0, 2, 12, 1, 0, 2]].concat();
        self.put("story", "lives", &story)?;
        // A submission in columns, of one trial that is lent and leaves a state.
        let rest = [1, 1, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0];
        let planned = [&[251][..], &rest, &[1, 1, 0, 0, 7, 1, 0, 1, 0, 0], &[2, 0, 1, 0, 1]].concat();
        self.put("story", "state-saved", &[&planned[..], &[250, 0, 1, 3, 0, 9, 1]].concat())?;
        let store = [&[0, 0, 0, 5, 0, 1][..], &story, &[0; 8], &[1, 3, 0, 9]].concat();
        self.put("store", "lives", &store)?;
        self.put("archive", "whole", &[2, 0, 0, 0, 3, 0, 0, 0, 1, 3, 0, 2, 1, 0, 1, 0])?;
        self.put("archive", "packed", &[1, 0, 0, 0, 3, 0, 0, 0, 1, 3, 0, 2, 1, 0, 1, 0])?;
        self.put("cifar", "whole", &[2, 0, 3, 1, 2, 3, 0, 0, 1, 1, 9, 0, 0, 1])
    }
}

/// A Parquet file of one row.
fn parquet_file(
    image: &str,
    labels: &[&str],
    compression: Compression,
    metadata: Option<&str>,
    path: Option<&str>,
    bytes: &[u8],
) -> Fallible<Vec<u8>> {
    let columns: String = labels.iter().map(|l| format!("optional int64 {l};")).collect();
    let schema = format!(
        "message schema {{ optional group {image} {{ optional binary bytes; optional binary path (UTF8); }} {columns} }}"
    );
    let metadata = metadata.map(|value| vec![KeyValue::new("huggingface".to_owned(), value.to_owned())]);
    let properties = WriterProperties::builder().set_compression(compression).set_key_value_metadata(metadata).build();
    let mut file = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut file, Arc::new(parse_message_type(&schema)?), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for text in [Some(bytes), path.map(str::as_bytes)] {
        let mut column = group.next_column()?.ok_or("no column")?;
        let (values, level) = text.map_or((vec![], 1), |text| (vec![ByteArray::from(text.to_vec())], 2));
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[level]), None)?;
        column.close()?;
    }
    for _ in labels {
        let mut column = group.next_column()?.ok_or("no column")?;
        column.typed::<Int64Type>().write_batch(&[1], Some(&[1]), None)?;
        column.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(file)
}

const CAMPAIGNS: [(&str, &str); 3] = [
    (
        "demo",
        r#"name = "demo"
seeds = [0, 1]
repeats = 2
budget = "2GiB"
hardware = ["A 1"]
[matrix]
method = ["full", "lora", "adalora", "qlora", "bitfit"]
backbone = ["vit_micro", "vit_tiny_patch16_224"]
checkpointing = ["none", "static", "adaptive", "planned"]
dataset = ["textures", "./flowers"]
[train]
steps = 120
batch = { default = 32 }
learning_rate = { full = 1e-3, default = 5e-3 }
[method.lora]
rank = 8
alpha = 16
targets = ["qkv"]
[method.adalora]
tinit = 12
tfinal = 30
[checkpointing.adaptive]
ratio = 0.7
[output]
weights = true
"#,
    ),
    (
        "small",
        "name = \"m\"\nhardware = \"each\"\nbudget = \"unlimited\"\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\n\
         dataset = \"dtd\"\n[select]\nmemory_at_least = \"4GiB\"\n[evaluate]\nbatch = 8\nlimit = 10\n",
    ),
    ("wrong", "name = \"m\"\n[matrix]\nmethod = \"lroa\"\n"),
];
