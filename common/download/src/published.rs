//! Where the models are that are used as they were published. Nobody whom we know of has published hashes of all of
//! their files, so they are fetched by hand.

use fleet_common::spec::Foundation;

/// A published model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its page.
    pub page: &'static str,
    /// Which of its files are needed, in words.
    pub files: &'static str,
    /// The terms, as far as its publisher states them.
    pub terms: &'static str,
}

const OPEN_CLIP: &str = "open_clip_config.json, open_clip_model.safetensors (or open_clip_pytorch_model.bin), tokenizer.json \
                         (or open_clip's bpe_simple_vocab_16e6.txt.gz); or else transformers' config.json, model.safetensors, \
                         preprocessor_config.json, tokenizer.json. Not both: model.safetensors would be read";
const TRANSFORMERS: &str = "config.json, model.safetensors, preprocessor_config.json, tokenizer.json (or spiece.model)";
const DINOV2: &str = "config.json, model.safetensors, preprocessor_config.json; or the authors' .pth alone";
const SMOL_VLM: &str = "config.json, model.safetensors, preprocessor_config.json, tokenizer.json";
const PALI_GEMMA: &str = "config.json, model.safetensors.index.json and the files that it names, preprocessor_config.json, \
                          tokenizer.json (or tokenizer.model)";
const MOBILE_VLM: &str = "config.json, its weights (pytorch_model.bin, or an index and the files that it names), \
                          tokenizer.model; the weights with its vision tower, which is openai/clip-vit-large-patch14-336 and \
                          has the preprocessor_config.json";
const APACHE: &str = "Apache-2.0";
const SEE: &str = "see the page";

/// Where a model is.
pub const fn published(model: Foundation) -> Published {
    let (page, files, terms) = match model {
        Foundation::OpenClipB32 => ("https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K", OPEN_CLIP, "MIT"),
        Foundation::OpenClipB16 => ("https://huggingface.co/laion/CLIP-ViT-B-16-laion2B-s34B-b88K", OPEN_CLIP, "MIT"),
        Foundation::OpenClipL14 => ("https://huggingface.co/laion/CLIP-ViT-L-14-laion2B-s32B-b82K", OPEN_CLIP, "MIT"),
        Foundation::SiglipBase => ("https://huggingface.co/google/siglip-base-patch16-224", TRANSFORMERS, APACHE),
        Foundation::SiglipLarge => ("https://huggingface.co/google/siglip-large-patch16-384", TRANSFORMERS, APACHE),
        Foundation::Dinov2Small => ("https://huggingface.co/facebook/dinov2-small", DINOV2, APACHE),
        Foundation::Dinov2Base => ("https://huggingface.co/facebook/dinov2-base", DINOV2, APACHE),
        Foundation::Dinov2Large => ("https://huggingface.co/facebook/dinov2-large", DINOV2, APACHE),
        Foundation::SmolVlm256m => ("https://huggingface.co/HuggingFaceTB/SmolVLM-256M-Instruct", SMOL_VLM, APACHE),
        Foundation::SmolVlm500m => ("https://huggingface.co/HuggingFaceTB/SmolVLM-500M-Instruct", SMOL_VLM, APACHE),
        Foundation::PaliGemma3b => (
            "https://huggingface.co/google/paligemma-3b-mix-224",
            PALI_GEMMA,
            "Gemma's terms of use, to be agreed to on the page before it gives the files",
        ),
        Foundation::MobileVlm => ("https://huggingface.co/mtgv/MobileVLM-1.7B", MOBILE_VLM, SEE),
        Foundation::MobileVlmV2 => ("https://huggingface.co/mtgv/MobileVLM_V2-1.7B", MOBILE_VLM, SEE),
    };
    Published { page, files, terms }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_model_has_a_page_of_its_own_and_says_what_it_needs() {
        let pages: BTreeSet<&str> = Foundation::ALL.into_iter().map(|m| published(m).page).collect();
        assert_eq!(pages.len(), Foundation::ALL.len());
        for model in Foundation::ALL {
            let Published { page, files, terms } = published(model);
            assert!(page.starts_with("https://huggingface.co/") && !terms.is_empty(), "{page}");
            assert!(files.contains("config.json"), "{files}");
        }
    }
}
