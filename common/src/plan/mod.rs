//! Campaign → cells → trials.
//!
//! Planning is a function of the campaign and of what its names resolve to (which data, which weights). The plan is
//! complete, printable and immutable: every cell that will run, and every combination left out with its reason.

mod cell;
mod kind;
mod lint;
mod method;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use cell::{CellSettings, DatasetRef, TrainSettings, WeightsRef};
pub use kind::{Kind, Kinds};
pub use method::{
    AdaLoraSettings, KnnSettings, LinearProbeSettings, LoraSettings, MethodSettings, QLoraSettings, VlmPromptSettings,
    VlmScoreSettings, ZeroShotSettings,
};
pub use text::{Around, SettingsText, Texts};

use crate::id::{CellId, HardwareClass, TrialId};
use crate::spec::{Backbone, Campaign, Checkpointing, DatasetName, Hardware, Method};

/// What a data set's name turned out to be where the campaign was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetIdentity {
    /// SHA-256 over the content that the reader uses.
    pub fingerprint: String,
    /// Number of classes.
    pub classes: u32,
    /// Training images.
    pub train: u64,
    /// Test images.
    pub test: u64,
}

/// What the campaign's names resolve to: data sets by name, and weights by backbone where there are any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolution {
    /// Data sets, or why one could not be found.
    pub datasets: BTreeMap<DatasetName, Result<DatasetIdentity, String>>,
    /// SHA-256 of each backbone's weights file, or of a published model's folder; absent means training from scratch.
    pub weights: BTreeMap<Backbone, String>,
}

/// One cell of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedCell {
    /// Hash of the settings.
    pub id: CellId,
    /// Its seed.
    pub seed: u64,
    /// Where the data set is found: the name or path that the campaign used. Not part of the identity.
    pub locator: Arc<DatasetName>,
    like: Arc<Like>,
}

/// What the cells of a combination have in common.
#[derive(Debug, PartialEq)]
struct Like {
    /// With seed 0.
    settings: CellSettings,
    around: Arc<Around>,
}

impl PlannedCell {
    /// The settings.
    pub fn settings(&self) -> CellSettings {
        CellSettings { seed: self.seed, ..self.like.settings.clone() }
    }

    /// The settings without the seed, which is 0 in them.
    pub fn like(&self) -> &CellSettings {
        &self.like.settings
    }

    /// The settings' canonical JSON.
    pub fn text(&self) -> SettingsText {
        SettingsText::new(self.like.around.clone(), Some(self.seed))
    }

    /// Whether another cell differs in its seed alone, and stands beside this one in its plan.
    pub fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.like, &other.like)
    }
}

/// A combination that will not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// Method of the combination.
    pub method: Method,
    /// Backbone of the combination.
    pub backbone: Backbone,
    /// Checkpointing of the combination.
    pub checkpointing: Checkpointing,
    /// Data set of the combination.
    pub dataset: String,
    /// How many cells that were.
    pub cells: usize,
    /// Why not.
    pub reason: String,
}

/// Everything that a campaign asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Cells, in the order of the axes as the file names them.
    pub cells: Vec<PlannedCell>,
    /// Combinations left out.
    pub excluded: Vec<Excluded>,
    /// What a careful reader would ask about: too few seeds for a spread, training from scratch.
    pub warnings: Vec<String>,
    /// Trials per cell and hardware class.
    pub repeats: u32,
}

impl Plan {
    /// The trials of this plan on the hardware that `hardware` asks for; `present` are the classes that agents have.
    pub fn trials(&self, hardware: &Hardware, present: &[HardwareClass]) -> Vec<TrialId> {
        let classes: Vec<Option<HardwareClass>> = match hardware {
            Hardware::Any => vec![None],
            Hardware::Each => present.iter().cloned().map(Some).collect(),
            Hardware::Classes(named) => named.iter().cloned().map(Some).collect(),
        };
        let mut trials = Vec::new();
        for repeat in 0..self.repeats {
            for class in &classes {
                for cell in &self.cells {
                    trials.push(TrialId { cell: cell.id.clone(), hardware: class.clone(), repeat });
                }
            }
        }
        trials
    }
}

/// Plans a campaign.
pub fn plan(campaign: &Campaign, resolution: &Resolution) -> Plan {
    let mut cells = Vec::new();
    let mut excluded = Vec::new();
    let matrix = &campaign.matrix;
    let mut seen = BTreeMap::new();
    for dataset in matrix.dataset.values() {
        // Two paths to the same content are one data set; counted twice, it would look like a repetition.
        let identity = resolution.datasets.get(dataset).and_then(|d| d.as_ref().ok());
        let same = identity.and_then(|identity| {
            let key = (dataset.label().to_owned(), identity.fingerprint.clone());
            seen.insert(key, dataset).filter(|first| *first != dataset)
        });
        let locator = Arc::new(dataset.clone());
        for backbone in matrix.backbone.values() {
            for method in matrix.method.values() {
                for checkpointing in matrix.checkpointing.values() {
                    let combination = cell::Combination {
                        method: *method,
                        backbone: *backbone,
                        checkpointing: *checkpointing,
                        dataset,
                    };
                    let resolved = match same {
                        Some(first) => Err(format!("it is the same data set as {}", String::from(first.clone()))),
                        None => cell::resolve(campaign, resolution, &combination),
                    };
                    match resolved {
                        Ok(settings) => {
                            let hasher = text::Hasher::of(&settings);
                            let like = Arc::new(Like { settings, around: hasher.around().clone() });
                            // Where nothing is random, one seed says all.
                            let seeds = campaign.seeds.values();
                            let (used, idle) = seeds.split_at(if method.is_random() { seeds.len() } else { 1 });
                            cells.extend(used.iter().map(|seed| PlannedCell {
                                id: hasher.id(*seed),
                                seed: *seed,
                                locator: locator.clone(),
                                like: like.clone(),
                            }));
                            if !idle.is_empty() {
                                excluded.push(leave_out(
                                    &combination,
                                    idle.len(),
                                    format!("nothing in it is random: its first seed, {}, says all", used[0]),
                                ));
                            }
                        }
                        Err(reason) => excluded.push(leave_out(&combination, campaign.seeds.values().len(), reason)),
                    }
                }
            }
        }
    }
    Plan { warnings: lint::lint(campaign, &cells), cells, excluded, repeats: campaign.repeats }
}

fn leave_out(combination: &cell::Combination<'_>, cells: usize, reason: String) -> Excluded {
    let cell::Combination { method, backbone, checkpointing, dataset } = *combination;
    Excluded { method, backbone, checkpointing, dataset: dataset.label().to_owned(), cells, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Foundation;

    const FILE: &str = r#"
name = "t"
seeds = [0, 1]
repeats = 2
[matrix]
method = ["full", "lora"]
backbone = ["vit_micro", "vit_tiny_patch16_224"]
checkpointing = ["none", "static"]
dataset = ["dtd", "textures"]
[train]
steps = 100
"#;

    fn resolution() -> Resolution {
        let identity = DatasetIdentity { fingerprint: "ab".repeat(32), classes: 8, train: 100, test: 50 };
        Resolution {
            datasets: [
                (DatasetName::Dtd, Err("data/dtd is not there".to_owned())),
                (DatasetName::Textures("textures".to_owned()), Ok(identity)),
            ]
            .into(),
            weights: [(Backbone::VitMicro, "cd".repeat(32))].into(),
        }
    }

    #[test]
    fn a_plan_is_the_whole_product_and_names_what_is_left_out() {
        let campaign = Campaign::parse("t.toml", FILE).expect("valid");
        let plan = plan(&campaign, &resolution());
        assert_eq!(plan.cells.len(), 2 * 2 * 2 * 2);
        assert_eq!(plan.excluded.len(), 2 * 2 * 2);
        assert_eq!(plan.excluded.iter().map(|e| e.cells).sum::<usize>(), 16);
        assert!(plan.excluded.iter().all(|e| e.dataset == "dtd" && e.reason.contains("data/dtd is not there")));
        let ids: std::collections::BTreeSet<_> = plan.cells.iter().map(|c| c.id.clone()).collect();
        assert_eq!(ids.len(), plan.cells.len(), "every cell has an id of its own");
        for cell in &plan.cells {
            assert_eq!(cell.id, cell.settings().id(), "ids are made from the text around the seed");
            assert_eq!(cell.text().text(), crate::canonical::json(&cell.settings()));
        }

        assert_eq!(plan.trials(&Hardware::Any, &[]).len(), 16 * 2);
        let classes: Vec<HardwareClass> = ["A", "B", "C"].map(|c| c.parse().expect("a class")).to_vec();
        assert_eq!(plan.trials(&Hardware::Each, &classes).len(), 16 * 2 * 3);
    }

    #[test]
    fn models_that_are_not_trained_are_cells_of_the_same_matrix() {
        let text = FILE
            .replace("\"lora\"]", "\"knn\", \"linear-probe\", \"zero-shot\"]")
            .replace("\"vit_tiny_patch16_224\"]", "\"dinov2_small\", \"siglip_base_patch16_224\"]");
        let campaign = Campaign::parse("t.toml", &text).expect("valid");
        let mut resolution = resolution();
        resolution.weights.insert(Backbone::Foundation(Foundation::Dinov2Small), "12".repeat(32));
        let planned = plan(&campaign, &resolution);
        let settings: Vec<CellSettings> = planned.cells.iter().map(PlannedCell::settings).collect();
        let of = |method: Method| settings.iter().filter(|s| s.method.method() == method).collect::<Vec<_>>();
        // Both strategies and seeds for what is trained; one of each for neighbours; a probe begins at random.
        assert_eq!((of(Method::Full).len(), of(Method::Knn).len(), of(Method::LinearProbe).len()), (4, 1, 2));
        let knn = of(Method::Knn)[0];
        assert_eq!((&knn.train, knn.checkpointing), (&None, Checkpointing::None));
        assert_eq!(knn.weights, WeightsRef::Folder { sha256: "12".repeat(32) });
        let all = planned.cells.len() + planned.excluded.iter().map(|e| e.cells).sum::<usize>();
        assert_eq!(all, 4 * 3 * 2 * 2 * 2, "cells and what is left out are the product");
        let reason = |method: Method, backbone: &str| {
            let of = |e: &&Excluded| e.dataset == "textures" && e.method == method && e.backbone.name() == backbone;
            planned.excluded.iter().find(of).map(|e| e.reason.clone()).expect("left out")
        };
        assert!(reason(Method::Full, "dinov2_small").contains("is not trained here"));
        assert!(reason(Method::Knn, "vit_micro").contains("is there to be trained"));
        assert!(reason(Method::ZeroShot, "dinov2_small").contains("features of images: knn or linear-probe"));
        assert!(reason(Method::ZeroShot, "siglip_base_patch16_224").contains("folder siglip_base_patch16_224/"));
        // What trains is nothing to them.
        let other = Campaign::parse("t.toml", &text.replace("steps = 100", "steps = 200")).expect("valid");
        let other = plan(&other, &resolution);
        let ids = |p: &Plan| -> Vec<CellId> {
            p.cells.iter().filter(|c| c.like().train.is_none()).map(|c| c.id.clone()).collect()
        };
        assert_eq!(ids(&planned), ids(&other));
    }

    #[test]
    fn weights_and_data_are_part_of_a_cells_identity_and_hardware_is_not() {
        let campaign = Campaign::parse("t.toml", FILE).expect("valid");
        let one = plan(&campaign, &resolution());
        let mut other = resolution();
        other.weights.insert(Backbone::VitMicro, "ef".repeat(32));
        let two = plan(&campaign, &other);
        let changed = |p: &Plan, q: &Plan, b: Backbone| {
            let of = |p: &Plan| -> Vec<CellId> {
                p.cells.iter().filter(|c| c.like().backbone == b).map(|c| c.id.clone()).collect()
            };
            of(p) != of(q)
        };
        assert!(changed(&one, &two, Backbone::VitMicro));
        assert!(!changed(&one, &two, Backbone::VitTinyPatch16));
        let each =
            Campaign::parse("t.toml", &FILE.replace("repeats = 2", "repeats = 2\nhardware = \"each\"")).expect("valid");
        assert_eq!(plan_ids(&one), plan_ids(&plan(&each, &resolution())));
    }

    #[test]
    fn what_a_budget_covers_is_part_of_a_cells_identity_where_there_is_one() {
        let with =
            |keys: &str| Campaign::parse("t.toml", &FILE.replace("repeats = 2", &format!("repeats = 2\n{keys}")));
        let ids = |keys: &str| plan_ids(&plan(&with(keys).expect("valid"), &resolution()));
        let (usual, process) = (ids(""), ids("budget_scope = \"process\""));
        assert_eq!(usual, ids("budget_scope = \"allocator\""));
        assert!(usual.iter().zip(&process).all(|(a, b)| a != b), "it is another cap");
        assert_eq!(ids("budget = \"unlimited\""), ids("budget = \"unlimited\"\nbudget_scope = \"process\""));
        let error = with("budget_scope = \"proces\"").expect_err("no such scope").to_string();
        assert!(error.contains("proces") && error.contains("allocator"), "{error}");
    }

    #[test]
    fn adaptive_checkpointing_needs_a_budget_and_a_share_of_it() {
        let text = FILE.replace("[\"none\", \"static\"]", "[\"none\", \"adaptive\"]");
        let of = |text: &str| plan(&Campaign::parse("t.toml", text).expect("valid"), &resolution());
        let adaptive = |p: &Plan| -> Vec<CellSettings> {
            p.cells
                .iter()
                .filter(|c| c.like().checkpointing == Checkpointing::Adaptive)
                .map(PlannedCell::settings)
                .collect()
        };
        let usual = adaptive(&of(&text));
        assert_eq!(usual.len(), 8);
        assert!(usual.iter().all(|s| s.adaptive_ratio == Some(0.5) && s.adaptive_threshold(2 << 30) == Some(1 << 30)));
        let other = adaptive(&of(&format!("{text}[checkpointing.adaptive]\nratio = 0.7\n")));
        assert!(usual.iter().zip(&other).all(|(a, b)| a.id() != b.id()), "another share is another cell");
        // Other strategies do not know of it.
        let plain = |p: &Plan| {
            plan_ids(p)
                .into_iter()
                .zip(&p.cells)
                .filter(|(_, c)| c.like().adaptive_ratio.is_none())
                .map(|(id, _)| id)
                .collect::<Vec<_>>()
        };
        assert_eq!(plain(&of(&text)), plain(&of(&format!("{text}[checkpointing.adaptive]\nratio = 0.7\n"))));
        let unlimited = of(&text.replace("repeats = 2", "repeats = 2\nbudget = \"unlimited\""));
        assert!(adaptive(&unlimited).is_empty());
        assert!(unlimited.excluded.iter().any(|e| e.reason.contains("the budget is unlimited; expected a budget")));
        for ratio in ["0", "-0.5", "1.5", "nan", "inf"] {
            let error = Campaign::parse("t.toml", &format!("{text}[checkpointing.adaptive]\nratio = {ratio}\n"));
            let error = error.expect_err("no share").to_string();
            assert!(error.contains("above 0 and at most 1") || error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn two_paths_to_the_same_data_are_one_data_set() {
        let text = FILE.replace("[\"dtd\", \"textures\"]", "[\"./flowers\", \"./flowers/\"]");
        let campaign = Campaign::parse("t.toml", &text).expect("valid");
        let identity = DatasetIdentity { fingerprint: "ab".repeat(32), classes: 8, train: 100, test: 50 };
        let datasets =
            campaign.matrix.dataset.values().iter().map(|name| (name.clone(), Ok(identity.clone()))).collect();
        let plan = plan(&campaign, &Resolution { datasets, ..Resolution::default() });
        let ids: std::collections::BTreeSet<_> = plan.cells.iter().map(|c| c.id.clone()).collect();
        assert_eq!((plan.cells.len(), ids.len()), (16, 16));
        assert!(plan.excluded.iter().all(|e| e.reason == "it is the same data set as ./flowers"));
    }

    fn plan_ids(plan: &Plan) -> Vec<CellId> {
        plan.cells.iter().map(|c| c.id.clone()).collect()
    }

    #[test]
    fn lora_targets_that_match_nothing_leave_the_combination_out() {
        let text = format!("{FILE}\n[method.lora]\ntargets = [\"in_proj\"]\n");
        let campaign = Campaign::parse("t.toml", &text).expect("valid");
        let plan = plan(&campaign, &resolution());
        let reasons: Vec<_> = plan.excluded.iter().filter(|e| e.dataset == "textures").collect();
        assert!(reasons.iter().all(|e| e.method == Method::Lora), "{reasons:?}");
        assert!(reasons[0].reason.contains("in_proj") && reasons[0].reason.contains("qkv"), "{}", reasons[0].reason);
    }
}
