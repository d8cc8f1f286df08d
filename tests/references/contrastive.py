"""Kind `contrastive`: encoders of images and texts with a common space: open_clip's CLIP, and SigLIP as transformers has it."""
import copy
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import SiglipConfig, SiglipModel

from folder import Tensors, generator, noise, randomise, write
from frozen import Exact, compare, published, special, twin

Spec = dict[str, Any]


def clip_texts(spec: Spec) -> Tensor:
    """Ids between the two highest, which mark a text's beginning and end; zeros behind. The first fills the context."""
    g, context, words = generator(spec["seed"] + 2), spec["text_cfg"]["context_length"], spec["text_cfg"]["vocab_size"] - 2
    rows = torch.zeros(spec["classes"] * spec["templates"], context, dtype=torch.long)
    for i, row in enumerate(rows):
        count = context - 2 if i == 0 else int(torch.randint(0, context - 1, (), generator=g))
        row[0], row[1 + count] = words, words + 1
        row[1:1 + count] = torch.randint(1, words, (count,), generator=g)
    return rows


@torch.no_grad()
def open_clip(folder: Path, spec: Spec) -> None:
    """Both encoders, and the classifier that is the mean over a class's templates."""
    model = CLIP(spec["embed_dim"], CLIPVisionCfg(**spec["vision_cfg"]), CLIPTextCfg(**spec["text_cfg"]),
                 quick_gelu=spec["quick_gelu"]).eval()
    randomise(model, spec["seed"], special)
    size = spec["vision_cfg"]["image_size"]
    x, ids = noise(spec["seed"] + 1, spec["batch"], 3, size, size), clip_texts(spec)

    def run(model: CLIP, x: Tensor) -> Tensors:
        of_classes = model.encode_text(ids, normalize=True).unflatten(0, (spec["classes"], spec["templates"]))
        classifier = normalize(of_classes.mean(1), dim=-1)
        return {"image_features": model.encode_image(x), "text_features": model.encode_text(ids),
                "logits_per_image": model.get_logits(x, ids)[0], "zeroshot_classifier": classifier,
                "zeroshot_logits": model.logit_scale.exp() * model.encode_image(x, normalize=True) @ classifier.T}

    single = run(model, x)
    with Exact():
        compare(single, run(copy.deepcopy(model).double(), x.double()))
    write(folder, {"kind": "contrastive", **spec}, {"input": x, "text": ids, **single}, weights=model.state_dict())


def siglip_texts(spec: Spec) -> Tensor:
    """Ids, an end (1), and the end again up to the whole context."""
    g, config = generator(spec["seed"] + 2), spec["text_config"]
    context = config["max_position_embeddings"]
    rows = torch.ones(spec["texts"], context, dtype=torch.long)
    for row in rows:
        count = int(torch.randint(0, context + 1, (), generator=g))
        row[:count] = torch.randint(2, config["vocab_size"], (count,), generator=g)
    return rows


@torch.no_grad()
def siglip(folder: Path, spec: Spec) -> None:
    config = SiglipConfig(vision_config=spec["vision_config"],
                          text_config={**spec["text_config"], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1})
    model = SiglipModel(config).eval()
    randomise(model, spec["seed"], special)
    weights = published(model)
    size = spec["vision_config"]["image_size"]
    x, ids = noise(spec["seed"] + 1, spec["batch"], 3, size, size), siglip_texts(spec)

    def run(model: nn.Module, x: Tensor) -> Tensors:
        out = model(input_ids=ids, pixel_values=x)
        return {"vision_last_hidden": out.vision_model_output.last_hidden_state,
                "image_features": out.vision_model_output.pooler_output, "image_embeds": out.image_embeds,
                "text_features": out.text_model_output.pooler_output, "text_embeds": out.text_embeds,
                "logits_per_image": out.logits_per_image, "probs": out.logits_per_image.sigmoid()}

    single = run(model, x)
    with Exact():
        compare(single, run(twin(model, weights), x.double()))
    write(folder, {"kind": "contrastive", **spec}, {"input": x, "text": ids, **single}, weights=weights)


WRITERS = {"open_clip": open_clip, "siglip": siglip}


def contrastive(folder: Path, spec: Spec) -> None:
    WRITERS[spec["architecture"]](folder, spec)
