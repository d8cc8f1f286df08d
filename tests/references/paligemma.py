"""Kind `vlm`, architecture `paligemma`: transformers' class of that name, whose head is its table of embeddings."""
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from folder import Tensors, noise, randomise, write
from frozen import Exact, compare, published, special, sure, twin
from prompts import greedy, row, words

Spec = dict[str, Any]
TOWER = "vision_tower."


def gemma(name: str, normal: Tensor) -> Tensor | None:
    """Gemma's norms multiply by one more than their weight."""
    if "language_model" in name and name.endswith("norm.weight"):
        return 0.2 * normal
    return special(name, normal)


def tower_names(name: str) -> str:
    """transformers writes the encoder of images without a prefix that the published files have."""
    return f"{TOWER}vision_model.{name.removeprefix(TOWER)}" if name.startswith(TOWER) and ".vision_model." not in name else name


@torch.no_grad()
def paligemma(folder: Path, spec: Spec) -> None:
    """The prefix, whose tokens all see each other, and the same with a suffix, in which each sees what is before it."""
    vision, text = spec["vision_config"], spec["text_config"]
    place, width, vocabulary = spec["image_token_id"], text["hidden_size"], text["vocab_size"]
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
        text_config={"model_type": "gemma", "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, **text},
        projection_dim=width, hidden_size=width, image_token_index=place)
    model = PaliGemmaForConditionalGeneration(config).eval()
    randomise(model, spec["seed"], gemma)
    weights = published(model, tower_names)
    exact_model = twin(model, weights)
    places = (vision["image_size"] // vision["patch_size"]) ** 2
    pixels = noise(spec["seed"] + 1, 1, 3, vision["image_size"], vision["image_size"])
    prefix = [place] * places + words(spec["seed"] + 2, spec["prompt_tokens"], vocabulary, place)
    suffix = words(spec["seed"] + 3, spec["suffix_tokens"], vocabulary, place)
    ids, full = row(prefix), row(prefix + suffix)
    types = row([0] * len(prefix) + [1] * len(suffix))
    labels = torch.where(types == 1, full, -100)

    def run(model: nn.Module, pixels: Tensor) -> Tensors:
        tokens = model.model.vision_tower(pixel_values=pixels).last_hidden_state
        before = model(input_ids=ids, pixel_values=pixels, token_type_ids=torch.zeros_like(ids))
        whole = model(input_ids=full, pixel_values=pixels, token_type_ids=types, labels=labels)
        return {"vision_last_hidden": tokens, "projector": model.model.multi_modal_projector(tokens),
                "prefix.logits": before.logits, "full.logits": whole.logits, "full.loss": whole.loss.reshape(1)}

    single = run(model, pixels)
    new = greedy(model, spec["new_tokens"], place, input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels,
                 token_type_ids=torch.zeros_like(ids))
    with Exact():
        compare(single, run(exact_model, pixels.double()))
        behind = exact_model(input_ids=row(prefix + new), pixel_values=pixels.double(),
                             token_type_ids=row([0] * len(prefix) + [1] * len(new))).logits[0]
    sure(new, behind[len(prefix) - 1:-1])
    write(folder, {"kind": "vlm", **spec},
          {"pixel_values": pixels, "prefix.input_ids": ids, "full.input_ids": full, "full.token_type_ids": types,
           "full.labels": labels, **single, "greedy_new_tokens": row(new)}, weights=weights)
