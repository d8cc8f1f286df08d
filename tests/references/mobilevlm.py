"""Kind `vlm`, architectures `mobilevlm` and `mobilevlm_v2`: transformers' CLIP and Llama, and between them the projectors of
Chu et al. (arXiv 2312.16886, 2402.03766) in plain torch, since no package has them."""
import copy
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, gelu, hardsigmoid, hardswish
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from features import vision_names
from folder import Tensors, noise, randomise, write
from frozen import Exact, compare, exact_rotations, published, special, sure, twin
from prompts import greedy, row, words

Spec = dict[str, Any]
PLACE = -200
"""The id that stands for all of an image's tokens."""
GRID = 12
"""Side of the second projector's grid, whatever the images' is."""


def squeezed(width: int) -> int:
    """A quarter of the width to the nearest multiple of 8, as MobileNets round, at least 8 and nine tenths of it."""
    quarter = width // 4
    near = max(8, (quarter + 4) // 8 * 8)
    return near if near >= 0.9 * quarter else near + 8


def grid(x: Tensor) -> Tensor:
    """(batch, side², width) to (batch, width, side, side)."""
    return x.transpose(1, 2).unflatten(2, (isqrt(x.shape[1]),) * 2)


class OverChannels(nn.LayerNorm):
    """Normalises each pixel of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, squeezed(width), 1), nn.Conv2d(squeezed(width), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * hardsigmoid(self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()))


class Residual(nn.Module):
    """MobileNetV3's block without its expansion."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        deep = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.block = nn.ModuleList([nn.ModuleList([deep, OverChannels(width)]), SqueezeExcite(width),
                                    nn.ModuleList([nn.Conv2d(width, width, 1, bias=False), OverChannels(width)])])
        self.adds = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        (deep, first), excite, (point, second) = self.block
        y = second(point(excite(hardswish(first(deep(x))))))
        return x + y if self.adds else y


class Ldp(nn.Module):
    """Of the first: half as many tokens per side, by a stride."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        mlp = [nn.Identity(), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width)]
        blocks = [nn.Identity(), Residual(width, 1), Residual(width, 2)]
        self.model = nn.ModuleDict({"mlp": nn.Sequential(*mlp), "mb_block": nn.Sequential(*blocks)})

    def forward(self, x: Tensor) -> Tensor:
        return self.model["mb_block"](grid(self.model["mlp"](x))).flatten(2).transpose(1, 2)


class LdpV2(nn.Module):
    """Of the second: means over a grid, and a convolution that tells where they are."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"mlp": nn.ModuleDict({"0": nn.Linear(inputs, width), "2": nn.Linear(width, width)})})
        self.peg = nn.ModuleDict({"peg": nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, groups=width))})

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.mlp["mlp"].values()
        means = adaptive_avg_pool2d(grid(second(gelu(first(x)))), (GRID, GRID))
        return (self.peg["peg"](means) + means).flatten(2).transpose(1, 2)


@torch.no_grad()
def mobilevlm(folder: Path, spec: Spec) -> None:
    text, vision = spec["text_config"], spec["vision_config"]
    tower = CLIPVisionModel(CLIPVisionConfig(**vision)).eval()
    names = {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    llama = LlamaForCausalLM(LlamaConfig(**text, **names)).eval()
    projector = (Ldp if spec["architecture"] == "mobilevlm" else LdpV2)(vision["hidden_size"], text["hidden_size"])
    for i, model in enumerate((tower, llama, projector)):
        randomise(model, spec["seed"] + i, special)
    files = published(tower, vision_names), published(llama)
    before, behind = (words(spec["seed"] + 10 + i, n, text["vocab_size"]) for i, n in enumerate(spec["words"]))
    x = noise(spec["seed"] + 5, 1, 3, vision["image_size"], vision["image_size"])

    def embeds(llama: nn.Module, image: Tensor, new: list[int]) -> Tensor:
        """The prompt as the decoder sees it, with `new` tokens behind it."""
        table = llama.get_input_embeddings()
        of = lambda ids: table(torch.tensor([ids], dtype=torch.long))  # noqa: E731
        return torch.cat([of(before), image, of(behind + new)], 1)

    def run(tower: nn.Module, projector: nn.Module, llama: nn.Module, x: Tensor, new: list[int]) -> Tensors:
        selected = tower(pixel_values=x, output_hidden_states=True).hidden_states[-2][:, 1:]
        image = projector(selected)
        return {"selected": selected, "projector": image, "logits": llama(inputs_embeds=embeds(llama, image, new)).logits}

    single = run(tower, projector, llama, x, [])
    prompt = embeds(llama, single["projector"], [])
    length = prompt.shape[1]
    new = greedy(llama, spec["new_tokens"], inputs_embeds=prompt, attention_mask=torch.ones(1, length))
    with Exact():
        exact = run(twin(tower, files[0]), copy.deepcopy(projector).double(), twin(llama, files[1]), x.double(), new)
    sure(new, exact["logits"][0, length - 1:-1])
    compare(single, {**exact, "logits": exact["logits"][:, :length]})
    weights = {f"model.vision_tower.vision_tower.{k}": t for k, t in files[0].items()} | files[1]
    weights |= {f"model.mm_projector.{k}": t for k, t in projector.state_dict().items()}
    config = {"kind": "vlm", **spec, "vision_select_layer": -2, "image_token_index": PLACE,
              "image_tokens": single["projector"].shape[1]}
    write(folder, config, {"input": x, "input_ids": row([*before, PLACE, *behind]), **single, "greedy_new_tokens": row(new)},
          weights=weights)
