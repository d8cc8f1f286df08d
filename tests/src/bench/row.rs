//! What is compared.

use std::fmt;

use fleet_common::plan::MethodSettings;
use fleet_common::spec::{AdaLoraSpec, Backbone, Checkpointing, DatasetName, Method, MethodSpecs};

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Backbone, by timm's name.
    pub backbone: Backbone,
    /// Images per step.
    pub batch: u32,
    /// Method.
    pub method: Method,
    /// Checkpointing.
    pub checkpointing: Checkpointing,
    /// How Python scans, where the backbone does.
    pub scan: Scan,
}

/// The two forms of the selective scan in Python; see tests/references/mamba.py.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// A loop over tensors that were taken apart before it.
    Unbound,
    /// The loop of the published reference, which indexes whole tensors at each step. One step takes most of a minute.
    Published,
}

impl Scan {
    /// The name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Published => "published",
        }
    }
}

/// The rows of `make bench`: each backbone with these batches and methods, with and without checkpointing.
const MATRIX: &[(Backbone, &[u32], &[Method])] = &[
    (Backbone::VitSmallPatch16, &[8], &[Method::Full, Method::Lora, Method::AdaLora, Method::QLora, Method::BitFit]),
    (Backbone::VitSmallPatch16, &[16], &[Method::Full, Method::Lora, Method::BitFit]),
    (Backbone::TinyVit5m, &[8], &[Method::Full, Method::Lora]),
    (Backbone::VimSmall, &[2], &[Method::Full, Method::Lora]),
    (Backbone::MambaVisionT, &[4], &[Method::Full, Method::Lora]),
];

/// All rows of the matrix.
pub fn matrix() -> Vec<Row> {
    let mut rows = Vec::new();
    for &(backbone, batches, methods) in MATRIX {
        for &batch in batches {
            for &method in methods {
                let row = |checkpointing| Row { backbone, batch, method, checkpointing, scan: Scan::Unbound };
                rows.extend([Checkpointing::None, Checkpointing::Static].map(row));
            }
        }
    }
    rows.push(Row {
        backbone: Backbone::VimSmall,
        batch: 2,
        method: Method::Full,
        checkpointing: Checkpointing::None,
        scan: Scan::Published,
    });
    rows
}

impl Row {
    /// A row from `BACKBONE:BATCH:METHOD:CHECKPOINTING`, and `:published` or `:unbound` for how Python scans; of the
    /// backbone, as much as tells it from others.
    ///
    /// # Errors
    /// In words: which part is not as expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts: Vec<&str> = text.split(':').collect();
        let scan = match parts.get(4) {
            None => Scan::Unbound,
            Some(name) => {
                [Scan::Unbound, Scan::Published].into_iter().find(|s| s.name() == *name).ok_or_else(|| {
                    format!("\"{name}\" in \"{text}\" is no form of a scan: expected unbound or published")
                })?
            }
        };
        parts.truncate(4);
        let [backbone, batch, method, checkpointing] = parts[..] else {
            return Err(format!(
                "\"{text}\" is not a row: expected BACKBONE:BATCH:METHOD:CHECKPOINTING, such as vit_small:8:lora:none"
            ));
        };
        Ok(Self {
            backbone: backbone_starting(backbone)?,
            batch: batch
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| format!("\"{batch}\" in \"{text}\" is not a batch: expected a positive whole number"))?,
            method: method.to_owned().try_into()?,
            checkpointing: checkpointing.to_owned().try_into()?,
            scan,
        })
    }

    /// The method with the protocol's hyper-parameters.
    ///
    /// # Errors
    /// In words: the method cannot run on the backbone.
    pub fn method_settings(&self) -> Result<MethodSettings, String> {
        // AdaLoRA is measured while it looks at every step, which it does most of the time.
        let adalora = AdaLoraSpec { tinit: 0, tfinal: 1, ..AdaLoraSpec::default() };
        MethodSettings::resolve(
            self.method,
            self.backbone,
            &DatasetName::Dtd,
            &MethodSpecs { adalora, ..MethodSpecs::default() },
        )
    }

    /// Timed steps per turn: on a CPU about as many seconds whatever the batch, on a GPU enough to last.
    pub fn steps(&self, on_cuda: bool) -> u32 {
        match self.scan {
            Scan::Unbound if on_cuda => 20,
            Scan::Unbound => (48 / self.batch).clamp(2, 6),
            Scan::Published => 1,
        }
    }

    /// Steps of Python that are not timed, at first.
    pub fn python_warm_up(&self) -> u32 {
        match self.scan {
            Scan::Unbound => 2,
            Scan::Published => 0,
        }
    }

    /// Whether Python scans at all.
    pub fn scans(&self) -> bool {
        matches!(self.backbone, Backbone::VimTiny | Backbone::VimSmall | Backbone::MambaVisionT)
    }
}

fn backbone_starting(text: &str) -> Result<Backbone, String> {
    let fitting: Vec<Backbone> =
        Backbone::TRAINED.into_iter().filter(|b| !text.is_empty() && b.name().starts_with(text)).collect();
    match fitting[..] {
        [one] => Ok(one),
        _ => Err(format!(
            "\"{text}\" names {} backbones: expected the beginning of one of {}",
            fitting.len(),
            Backbone::TRAINED.map(Backbone::name).join(", ")
        )),
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backbone, batch, method, checkpointing, scan } = self;
        write!(f, "{}:{batch}:{}:{}", backbone.name(), method.name(), checkpointing.name())?;
        if self.scans() { write!(f, ":{}", scan.name()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_matrix_is_found_by_its_own_name() {
        let rows = matrix();
        assert_eq!(rows.len(), 29);
        for row in rows {
            assert_eq!(Row::parse(&row.to_string()).as_ref(), Ok(&row));
        }
    }

    #[test]
    fn the_beginning_of_a_backbone_is_enough_if_it_names_one() {
        let row = Row::parse("vit_small:8:lora:none").expect("a row");
        assert_eq!(row.backbone, Backbone::VitSmallPatch16);
        let several = Row::parse("vit:8:lora:none").expect_err("several fit");
        assert!(several.contains("vit_tiny_patch16_224"), "{several}");
    }

    #[test]
    fn what_is_wrong_with_a_row_is_said() {
        for (text, expected) in [
            ("vit_small:8:lora", "BACKBONE:BATCH:METHOD:CHECKPOINTING"),
            ("vit_small:0:lora:none", "positive whole number"),
            ("vit_small:8:lro:none", "lora"),
            ("vit_small:8:lora:sttic", "static"),
            ("vim_small:8:lora:none:fast", "unbound or published"),
        ] {
            let error = Row::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
