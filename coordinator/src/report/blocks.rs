//! What may be compared with what: one block per data set, hardware class and number of evaluated images.
//!
//! Rows of one block stand in one table and one chart; nothing is ranked across blocks.

use std::collections::BTreeSet;

use fleet_common::compare::{Comparison, Failure, Group, Preparation};
use fleet_common::id::HardwareClass;
use fleet_common::plan::{CellSettings, DatasetRef};
use fleet_common::record::{EnergyDomain, Outcome, Record};
use fleet_common::score::Summary;

use super::settings::{self, Flat};

/// A training cost that accuracy is weighed against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    Memory,
    Time,
    Energy,
}

impl Cost {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Time, Self::Energy];

    /// The group's cost, in bytes, seconds or joules.
    pub(super) fn of(self, group: &Group) -> Option<&Summary> {
        match self {
            Self::Memory => group.training.peak_bytes.as_ref(),
            Self::Time => group.training.seconds.as_ref(),
            Self::Energy => group.training.joules.value(),
        }
    }
}

/// One combination in a block.
pub(super) struct Row<'a> {
    /// Its number in the whole report, from 1.
    pub(super) number: usize,
    pub(super) group: &'a Group,
    /// Short and unique in its block: "lora · static".
    pub(super) label: String,
    /// What is particular to it, in words.
    pub(super) particular: Vec<String>,
}

impl Row<'_> {
    /// Time to classify an image of the test set.
    pub(super) fn milliseconds_per_image(&self) -> Option<Summary> {
        let evaluated = Some(self.group.evaluated).filter(|n| *n > 0)?;
        self.group.inference.seconds.map(|s| s.scaled(1e3 / evaluated as f64))
    }

    /// Whether the row is on the front of accuracy against `cost`.
    pub(super) fn on_front(&self, cost: Cost) -> Option<bool> {
        let front = self.group.on_front;
        match cost {
            Cost::Memory => front.memory,
            Cost::Time => front.time,
            Cost::Energy => front.energy,
        }
    }
}

/// Rows that may be compared, and the failures beside them.
pub(super) struct Block<'a> {
    pub(super) dataset: &'a DatasetRef,
    pub(super) hardware: &'a HardwareClass,
    /// Images evaluated per trial; `None` where no trial completed.
    pub(super) evaluated: Option<u64>,
    pub(super) rows: Vec<Row<'a>>,
    pub(super) failures: Vec<&'a Failure>,
    /// What all rows have in common, in words.
    pub(super) common: Vec<String>,
    /// Whether another block has a data set of the same name and other content.
    pub(super) namesake: bool,
}

/// The blocks of a comparison, in its order.
pub(super) fn blocks(comparison: &Comparison) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for group in &comparison.groups {
        let block = find(&mut blocks, &group.settings.dataset, &group.hardware, Some(group.evaluated));
        block.rows.push(Row { number: 0, group, label: String::new(), particular: Vec::new() });
    }
    for failure in &comparison.failures {
        // A failed trial evaluated nothing: it stands beside the others of its combination, or else beside whatever ran
        // on that data and hardware.
        let (settings, hardware) = (&failure.settings, &failure.hardware);
        let kin =
            |b: &Block<'_>| b.hardware == hardware && b.rows.iter().any(|r| same_but_seed(&r.group.settings, settings));
        let evaluated = blocks.iter().find(|b| kin(b)).and_then(|b| b.evaluated);
        find(&mut blocks, &settings.dataset, hardware, evaluated).failures.push(failure);
    }
    let datasets: BTreeSet<(String, String)> =
        blocks.iter().map(|b| (b.dataset.name.clone(), b.dataset.fingerprint.clone())).collect();
    let mut number = 0;
    for block in &mut blocks {
        block.namesake = datasets.iter().filter(|(name, _)| *name == block.dataset.name).count() > 1;
        let flats: Vec<Flat> = block.rows.iter().map(|r| settings::flat(&r.group.settings)).collect();
        block.common = settings::common(&flats);
        for (row, flat) in block.rows.iter_mut().zip(&flats) {
            number += 1;
            row.number = number;
            row.particular = settings::particular(flat, &flats);
        }
        let labels = labels(&block.rows, &flats);
        block.rows.iter_mut().zip(labels).for_each(|(row, label)| row.label = label);
    }
    blocks
}

fn find<'b, 'a>(
    blocks: &'b mut Vec<Block<'a>>,
    dataset: &'a DatasetRef,
    hardware: &'a HardwareClass,
    evaluated: Option<u64>,
) -> &'b mut Block<'a> {
    let fits = |b: &Block<'_>| {
        b.dataset == dataset && b.hardware == hardware && (evaluated.is_none() || b.evaluated == evaluated)
    };
    let at = blocks.iter().position(fits).unwrap_or_else(|| {
        blocks.push(Block {
            dataset,
            hardware,
            evaluated,
            rows: Vec::new(),
            failures: Vec::new(),
            common: Vec::new(),
            namesake: false,
        });
        blocks.len() - 1
    });
    &mut blocks[at]
}

/// Method and checkpointing, the backbone where there are several, and whatever else it takes to be unique.
fn labels(rows: &[Row<'_>], flats: &[Flat]) -> Vec<String> {
    let backbones: BTreeSet<_> = rows.iter().map(|r| r.group.settings.backbone).collect();
    let base: Vec<String> = rows.iter().map(|r| brief(&r.group.settings, backbones.len() > 1)).collect();
    base.iter()
        .enumerate()
        .map(|(i, label)| {
            let twins: Vec<&Flat> =
                (0..rows.len()).filter(|&k| k != i && base[k] == *label).map(|k| &flats[k]).collect();
            let mut parts = vec![label.clone()];
            parts.extend(settings::distinction(&flats[i], &twins));
            parts.join(" · ")
        })
        .collect()
}

/// A combination in few words.
pub(super) fn brief(settings: &CellSettings, with_backbone: bool) -> String {
    let rest = match settings.train {
        Some(_) => format!("{} · {}", settings.method.method().name(), settings.checkpointing.name()),
        None => settings.method.method().name().to_owned(),
    };
    match with_backbone {
        true => format!("{} · {rest}", settings::brief_backbone(settings.backbone.name())),
        false => rest,
    }
}

/// What the training side of a row is where nothing is trained.
pub(super) const BEFORE: &str = "Where nothing is trained, the training side is what it takes before the first image can be classified: features of \
     the training images and a probe on them, embeddings of descriptions of the classes, or a first reading of a prompt.";

/// Whether inference counts that.
pub(super) const fn counted(preparation: Preparation) -> &'static str {
    match preparation {
        Preparation::Apart => {
            "What is prepared before the first image does not count as inference; with --count-preparation it does."
        }
        Preparation::Counted => {
            "What is prepared before the first image counts as inference (--count-preparation): its time and energy are shared \
             among the evaluated images, and the peak is the larger of both."
        }
    }
}

/// What the joules of a group cover; `None` for other costs.
pub(super) fn domain_of(group: &Group, cost: Cost) -> Option<EnergyDomain> {
    if cost == Cost::Energy { group.training.domain } else { None }
}

/// The domains in which `cost` was measured.
pub(super) fn domains(rows: &[Row<'_>], cost: Cost) -> BTreeSet<Option<EnergyDomain>> {
    rows.iter().filter(|r| cost.of(r.group).is_some()).map(|r| domain_of(r.group, cost)).collect()
}

/// What joules of a domain cover.
pub(super) const fn domain_in_words(domain: EnergyDomain) -> &'static str {
    match domain {
        EnergyDomain::Gpu => "the GPU board",
        EnergyDomain::CpuPackages => "all CPU packages of the machine",
        EnergyDomain::Dram => "the memory of the machine",
        EnergyDomain::Sensor => "what a sensor of the machine covers",
        EnergyDomain::Wall => "the whole machine at the wall",
    }
}

impl Block<'_> {
    /// "textures on NVIDIA GeForce RTX 4090".
    pub(super) fn title(&self) -> String {
        let hash = if self.namesake {
            format!(" (content {})", settings::short(&self.dataset.fingerprint))
        } else {
            String::new()
        };
        format!("{}{hash} on {}", self.dataset.name, self.hardware)
    }

    /// Whether there are rows that train nothing.
    pub(super) fn has_untrained(&self) -> bool {
        self.rows.iter().any(|r| r.group.settings.train.is_none())
    }

    /// Whether rows of several backbones stand in it.
    pub(super) fn several_backbones(&self) -> bool {
        self.rows.windows(2).any(|w| w[0].group.settings.backbone != w[1].group.settings.backbone)
    }

    /// Whether `record` is a trial of one of its rows or failures.
    pub(super) fn holds(&self, record: &Record) -> bool {
        record.machine.hardware == *self.hardware
            && record.settings.dataset == *self.dataset
            && match record.outcome {
                Outcome::Completed => self.evaluated == Some(record.training.evaluated),
                _ => self.failures.iter().any(|f| f.trial == record.trial),
            }
    }

    /// The combination of `record` in few words, and its seed.
    pub(super) fn label(&self, record: &Record) -> String {
        let row = self.rows.iter().find(|row| Self::belongs(row, record));
        let name = row.map_or_else(|| brief(&record.settings, self.several_backbones()), |r| r.label.clone());
        match record.outcome {
            Outcome::Completed => format!("{name} (seed {})", record.settings.seed),
            _ => format!("{name} (seed {}, {})", record.settings.seed, record.outcome.class()),
        }
    }

    /// Whether `record` is a trial of `row`.
    pub(super) fn belongs(row: &Row<'_>, record: &Record) -> bool {
        record.machine.hardware == row.group.hardware && same_but_seed(&record.settings, &row.group.settings)
    }
}

/// Whether two trials differ in nothing but their seed.
pub(super) fn same_but_seed(a: &CellSettings, b: &CellSettings) -> bool {
    *a == CellSettings { seed: a.seed, ..b.clone() }
}
