"""Kind `vlm`, architecture `smolvlm`: transformers' Idefics3, whose head is a matrix of its own."""
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

from folder import Tensors, noise, randomise, steady, write
from frozen import RELATIVE, Exact, compare, published, special, sure, twin
from prompts import greedy, row, words

Spec = dict[str, Any]
PAD = 2


def prompt(spec: Spec) -> list[int]:
    """Texts of the lengths in `words`, and a tile's places between one and the next."""
    vocabulary, place, ids = spec["text_config"]["vocab_size"], spec["image_token_id"], []
    for i, count in enumerate(spec["words"]):
        ids += [place] * spec["image_seq_len"] * (i > 0) + words(spec["seed"] + 10 + i, count, vocabulary, place)
    return ids


def answers(spec: Spec) -> list[list[int]]:
    """Candidates; the last is the first with another token behind it."""
    vocabulary, place = spec["text_config"]["vocab_size"], spec["image_token_id"]
    lists = [words(spec["seed"] + 50 + i, n, vocabulary, place) for i, n in enumerate(spec["candidate_lengths"])]
    return [*lists, lists[0] + words(spec["seed"] + 90, 1, vocabulary, place)]


def scores(model: nn.Module, ids: list[int], candidates: list[list[int]], pixels: Tensor) -> list[list[float]]:
    """Of each candidate behind the prompt the log-probability: summed over its tokens, and their mean."""
    found = []
    for answer in candidates:
        whole = row(ids + answer)
        likely = model(input_ids=whole, pixel_values=pixels).logits[0, len(ids) - 1:-1].log_softmax(-1)
        total = float(likely.gather(1, torch.tensor(answer)[:, None]).double().sum())
        found.append([total, total / len(answer)])
    return found


def left_padded(spec: Spec) -> Tensors:
    """Texts of unlike length, with `PAD` in front, and which ids are real."""
    counts, vocabulary = spec["padded_lengths"], spec["text_config"]["vocab_size"]
    longest = max(counts)
    texts = [words(spec["seed"] + 70 + i, n, vocabulary, spec["image_token_id"]) for i, n in enumerate(counts)]
    return {"leftpad.input_ids": torch.tensor([[PAD] * (longest - len(t)) + t for t in texts]),
            "leftpad.attention_mask": torch.tensor([[0] * (longest - n) + [1] * n for n in counts])}


@torch.no_grad()
def smolvlm(folder: Path, spec: Spec) -> None:
    text = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD, "tie_word_embeddings": False,
            **spec["text_config"]}
    shuffle = {k: spec[k] for k in ("scale_factor",) if k in spec}
    config = Idefics3Config(vision_config=spec["vision_config"], text_config=text, **shuffle,
                            image_token_id=spec["image_token_id"], tie_word_embeddings=False)
    model = Idefics3ForConditionalGeneration(config).eval()
    randomise(model, spec["seed"], special)
    weights = published(model)
    exact_model = twin(model, weights)
    vision = spec["vision_config"]
    side = vision["image_size"] // vision["patch_size"] // config.scale_factor
    spec = {**spec, "image_seq_len": side * side}
    tiles = len(spec["words"]) - 1
    pixels = noise(spec["seed"] + 1, 1, tiles, 3, vision["image_size"], vision["image_size"])
    ids, candidates, padded = prompt(spec), answers(spec), left_padded(spec)

    def run(model: nn.Module, pixels: Tensor) -> Tensors:
        tokens = model.model.vision_model(pixel_values=pixels[0]).last_hidden_state
        mask = padded["leftpad.attention_mask"]
        behind = model(input_ids=padded["leftpad.input_ids"], attention_mask=mask,
                       position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
        # What is seen of what pads, nobody compares.
        return {"vision_last_hidden": tokens, "connector": model.model.connector(tokens),
                "logits": model(input_ids=row(ids), pixel_values=pixels).logits,
                "leftpad.logits": behind * mask[:, :, None]}

    single = run(model, pixels)
    told = scores(model, ids, candidates, pixels)
    new = greedy(model, spec["new_tokens"], spec["image_token_id"], input_ids=row(ids),
                 attention_mask=torch.ones(1, len(ids)), pixel_values=pixels)
    with Exact():
        compare(single, run(exact_model, pixels.double()))
        for one, two in zip(told, scores(exact_model, ids, candidates, pixels.double()), strict=True):
            for a, b in zip(one, two, strict=True):
                steady("a candidate's score", torch.tensor(a), torch.tensor(b), relative=RELATIVE)
        behind = exact_model(input_ids=row(ids + new), pixel_values=pixels.double()).logits[0]
    sure(new, behind[len(ids) - 1:-1])
    told_of = {"candidates": candidates, "candidate_logprob_sum_mean": told}
    write(folder, {"kind": "vlm", **spec, **told_of},
          {"pixel_values": pixels, "input_ids": row(ids), **padded, **single, "greedy_new_tokens": row(new)}, weights=weights)
