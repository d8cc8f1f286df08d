//! The files that can be fetched.
//!
//! A hash stands here only if somebody other than us has published it. CIFAR-100's MD5 is its publisher's; its SHA-256
//! is what torchvision for Ruby and MLDatasets.jl check. DTD's MD5 is torchvision's, its SHA-256 that of torchvision's
//! prototype data sets and of anomalib. Those of the weights are given, with the revision of the hub that they belong
//! to, by projects that pin them: the ViTs' by LibreYOLO's provenance notes and others; TinyViT-5M's by one, in the
//! test of its manifest of model sources (revision b46989c2).

use fleet_common::spec::Backbone;

use crate::content::{Content, Size};

/// A file that can be fetched.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// What people call it: the data set, or the backbone.
    pub name: &'static str,
    /// Where it is.
    pub url: &'static str,
    /// Its name in the folder where it is kept.
    pub file: &'static str,
    /// What it must be.
    pub content: Content<'static>,
    /// The terms, as far as its publisher states them.
    pub terms: &'static str,
}

/// CIFAR-100, which the reader uses packed.
pub const CIFAR100: Source = Source {
    name: "cifar100",
    url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    file: "cifar-100-binary.tar.gz",
    content: Content {
        size: Size::Exactly(168_513_733),
        sha256: "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        md5: Some("03b5dce01913d631647c71ecec9e9cb8"),
    },
    terms: "none stated; see https://www.cs.toronto.edu/~kriz/cifar.html",
};

/// DTD, which is unpacked.
pub const DTD: Source = Source {
    name: "dtd",
    url: "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
    file: "dtd-r1.0.1.tar.gz",
    content: Content {
        size: Size::Exactly(625_239_812),
        sha256: "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
        md5: Some("fff73e5086ae6bdbea199a49dfb8a4c1"),
    },
    terms: "for research; see https://www.robots.ox.ac.uk/~vgg/data/dtd/",
};

/// Initial weights, by backbone: the study's kind, which are timm's checkpoints.
pub const WEIGHTS: [(Backbone, Source); 3] = [
    (
        Backbone::VitTinyPatch16,
        Source {
            name: "vit_tiny_patch16_224",
            url: "https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
            file: "vit_tiny_patch16_224.safetensors",
            content: Content {
                // 5.7 million numbers of 4 bytes; the exact size is not published.
                size: Size::AtMost(32_000_000),
                sha256: "fecf81b492bd13ee7a5297cb74d1d417aac8bf7e1b7d96aed89c4691984587ed",
                md5: None,
            },
            terms: "Apache-2.0",
        },
    ),
    (
        Backbone::VitSmallPatch16,
        Source {
            name: "vit_small_patch16_224",
            url: "https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
            file: "vit_small_patch16_224.safetensors",
            content: Content {
                size: Size::Exactly(88_216_496),
                sha256: "79c03c635cdfd798a364a9d8c4e5c0b7255b975ea2c9616046d4f77ab01435aa",
                md5: None,
            },
            terms: "Apache-2.0",
        },
    ),
    (
        Backbone::TinyVit5m,
        Source {
            name: "tiny_vit_5m_224",
            url: "https://huggingface.co/timm/tiny_vit_5m_224.dist_in22k_ft_in1k/resolve/main/model.safetensors",
            file: "tiny_vit_5m_224.safetensors",
            content: Content {
                // 5.4 million numbers of 4 bytes; the exact size is not published.
                size: Size::AtMost(32_000_000),
                sha256: "ab65a070d1540d6beb9543193d470ac0f2b5f3063b411783856d0c4c45a1e44f",
                md5: None,
            },
            terms: "Apache-2.0",
        },
    ),
];

/// The public weights of a backbone that can be fetched and checked.
pub fn weights(backbone: Backbone) -> Option<&'static Source> {
    WEIGHTS.iter().find(|(of, _)| *of == backbone).map(|(_, source)| source)
}

/// Public weights that nobody whom we know of has published a hash of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unchecked {
    /// The page of the hub that has them.
    pub page: &'static str,
    /// Which file of it.
    pub file: &'static str,
    /// The end of the name that it goes by here.
    pub extension: &'static str,
}

/// Where the public weights of a backbone are that can only be fetched by hand. For models that are not trained, see
/// [`crate::published`].
pub const fn unchecked_weights(backbone: Backbone) -> Option<Unchecked> {
    let (page, file, extension) = match backbone {
        Backbone::TinyVit11m => {
            ("https://huggingface.co/timm/tiny_vit_11m_224.dist_in22k_ft_in1k", "model.safetensors", "safetensors")
        }
        Backbone::TinyVit21m => {
            ("https://huggingface.co/timm/tiny_vit_21m_224.in1k", "model.safetensors", "safetensors")
        }
        Backbone::VimTiny => ("https://huggingface.co/hustvl/Vim-tiny-midclstok", "its .pth", "pth"),
        Backbone::VimSmall => {
            ("https://huggingface.co/hustvl/Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth", "pth")
        }
        Backbone::MambaVisionT => {
            ("https://huggingface.co/nvidia/MambaVision-T-1K", "model.safetensors", "safetensors")
        }
        Backbone::VitMicro
        | Backbone::VitTinyPatch16
        | Backbone::VitSmallPatch16
        | Backbone::TinyVit5m
        | Backbone::Foundation(_) => return None,
    };
    Some(Unchecked { page, file, extension })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_well_formed() {
        for source in [&CIFAR100, &DTD].into_iter().chain(WEIGHTS.iter().map(|(_, source)| source)) {
            let hex = |text: &str, digits| {
                text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            };
            assert!(source.url.starts_with("https://"), "{}", source.url);
            assert!(hex(source.content.sha256, 64), "{}", source.content.sha256);
            assert!(source.content.md5.is_none_or(|md5| hex(md5, 32)), "{:?}", source.content.md5);
        }
    }

    #[test]
    fn weights_can_be_checked_or_cannot_but_not_both() {
        for backbone in Backbone::all() {
            assert!(weights(backbone).is_none() || unchecked_weights(backbone).is_none(), "{}", backbone.name());
        }
    }

    #[test]
    fn weights_lie_where_the_planner_and_the_agent_look_for_them() {
        for (backbone, source) in &WEIGHTS {
            assert_eq!(source.name, backbone.name());
            assert_eq!(source.file, format!("{}.safetensors", backbone.name()));
        }
    }
}
