//! Cells that need the same memory and time: those that differ in their seed alone.

use serde::{Deserialize, Serialize};

use super::{CellSettings, Plan, PlannedCell};
use crate::canonical;
use crate::memory::estimate;
use crate::spec::{Backbone, Checkpointing, Method};

/// Test images of a campaign that does not limit them (the public sets have 1,880 and 10,000), and training images whose
/// features are looked at.
const EVALUATED: u32 = 5_000;

/// What placing and timing a cell's trials needs to know of its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kind {
    /// Hash of all settings but the seed: results of kinds with one key tell of each other.
    pub key: String,
    /// Backbone and method: the estimates of a family are off in the same way.
    pub family: String,
    /// Cap of what tensors may hold, bytes.
    pub budget_bytes: Option<u64>,
    /// The estimated peak of a step, bytes.
    pub peak_bytes: u64,
    /// Multiply-accumulates of a whole trial, about.
    pub work: f64,
}

impl Kind {
    /// The kind of a cell.
    pub fn of(settings: &CellSettings) -> Self {
        let seedless = CellSettings { seed: 0, ..settings.clone() };
        Self {
            key: canonical::sha256_hex(canonical::json(&seedless).as_bytes())[..16].to_owned(),
            family: format!("{} · {}", settings.backbone.name(), settings.method.method().name()),
            budget_bytes: settings.budget_bytes,
            peak_bytes: estimate(settings).peak_bytes,
            work: work(settings),
        }
    }
}

/// The kinds of a plan's cells.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kinds {
    /// Each once.
    pub kinds: Vec<Kind>,
    /// Per cell of the plan, its place in `kinds`.
    pub of_cell: Vec<u32>,
}

impl Kinds {
    /// Those of a plan. Seeds of a combination follow on each other there, and share an estimate.
    pub fn of(plan: &Plan) -> Self {
        let mut kinds: Vec<Kind> = Vec::new();
        let mut of_cell = Vec::with_capacity(plan.cells.len());
        let mut latest: Option<(&PlannedCell, u32)> = None;
        for cell in &plan.cells {
            let place = match latest {
                Some((before, place)) if before.is_beside(cell) => place,
                _ => {
                    let kind = Kind::of(cell.like());
                    let known = kinds.iter().position(|k| k.key == kind.key);
                    known.unwrap_or_else(|| {
                        kinds.push(kind);
                        kinds.len() - 1
                    }) as u32
                }
            };
            latest = Some((cell, place));
            of_cell.push(place);
        }
        Self { kinds, of_cell }
    }
}

/// Multiply-accumulates of one image through a backbone of its own input size. `agent/worker/tests/counts.rs` holds the
/// models to these.
const fn macs(backbone: Backbone) -> f64 {
    match backbone {
        Backbone::VitMicro => 0.0847e9,
        Backbone::VitTinyPatch16 => 1.255e9,
        Backbone::VitSmallPatch16 => 4.599e9,
        Backbone::TinyVit5m => 1.293e9,
        Backbone::TinyVit11m => 2.016e9,
        Backbone::TinyVit21m => 4.250e9,
        Backbone::VimTiny => 1.5e9,
        Backbone::VimSmall => 4.851e9,
        Backbone::MambaVisionT => 4.564e9,
        Backbone::Foundation(foundation) => foundation.gmacs() * 1e9,
    }
}

/// Forward is one pass. Backward is two of them where weights train, and about one where only adapters do, whose
/// gradients still have to travel through all layers. Running blocks again is one more.
fn work(settings: &CellSettings) -> f64 {
    let native = f64::from(settings.backbone.image_size());
    let image = macs(settings.backbone) * (f64::from(settings.image_size) / native).powi(2);
    let evaluated = f64::from(settings.evaluate.limit.unwrap_or(EVALUATED));
    let Some(train) = &settings.train else {
        let support = match settings.method.method() {
            Method::Knn | Method::LinearProbe => f64::from(EVALUATED),
            _ => 0.0,
        };
        return image * (support + evaluated);
    };
    let backward = match settings.method.method() {
        Method::Full => 2.0,
        _ => 1.2,
    };
    let again = match settings.checkpointing {
        Checkpointing::None => 0.0,
        Checkpointing::Static => 1.0,
        Checkpointing::Adaptive | Checkpointing::Planned => 0.5,
    };
    let trained = f64::from(train.steps) * f64::from(train.batch) * (1.0 + backward + again);
    image * (trained + evaluated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{DatasetIdentity, Resolution, plan};
    use crate::spec::{Campaign, DatasetName};

    fn kinds(more: &str) -> Kinds {
        let text = format!(
            "name = \"k\"\nseeds = [0, 1, 2]\n[matrix]\nmethod = [\"full\", \"lora\"]\nbackbone = \"vit_micro\"\n\
             checkpointing = [\"none\", \"static\"]\ndataset = \"textures\"\n[train]\n{more}"
        );
        let campaign = Campaign::parse("k.toml", &text).expect("valid");
        let identity = DatasetIdentity { fingerprint: "0".repeat(64), classes: 8, train: 10, test: 10 };
        let datasets = [(DatasetName::Textures("textures".into()), Ok(identity))].into();
        Kinds::of(&plan(&campaign, &Resolution { datasets, ..Resolution::default() }))
    }

    #[test]
    fn seeds_share_a_kind_and_nothing_else_does() {
        let k = kinds("steps = 10");
        assert_eq!((k.kinds.len(), k.of_cell.len()), (4, 12));
        assert_eq!(&k.of_cell[..6], [0, 0, 0, 1, 1, 1]);
        let keys: std::collections::BTreeSet<&str> = k.kinds.iter().map(|k| k.key.as_str()).collect();
        assert_eq!(keys.len(), 4);
        assert!(k.kinds.iter().all(|k| k.peak_bytes > 1 << 20 && k.budget_bytes == Some(2 << 30)));
    }

    #[test]
    fn more_steps_are_more_work_and_checkpointing_costs_some() {
        let (short, long) = (kinds("steps = 100"), kinds("steps = 200"));
        for (a, b) in short.kinds.iter().zip(&long.kinds) {
            assert!(b.work > a.work && a.key != b.key);
        }
        assert!(short.kinds[1].work > short.kinds[0].work, "static runs blocks again");
        assert!(short.kinds[0].work > short.kinds[2].work, "full trains more than LoRA");
    }
}
