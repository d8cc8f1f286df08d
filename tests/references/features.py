"""Kind `features`: encoders of images without a head: DINOv2 as transformers and timm have it, CLIP as transformers has it."""
import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from folder import Tensors, noise, randomise, write
from frozen import Exact, compare, published, special, twin

Spec = dict[str, Any]
DINOV2_ARGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "image_size", "patch_size",
               "layer_norm_eps")
CLIP_ARGS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
             "hidden_act", "layer_norm_eps")
TIMM_ARGS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "init_values", "num_classes")


def chosen(spec: Spec, keys: tuple[str, ...]) -> Spec:
    return {k: spec[k] for k in keys if k in spec}


@torch.no_grad()
def dinov2_hf(folder: Path, spec: Spec) -> None:
    """Images of several sizes, for which positions are interpolated."""
    model = Dinov2Model(Dinov2Config(**chosen(spec, DINOV2_ARGS))).eval()
    randomise(model, spec["seed"], special)
    weights = published(model)
    exact_model = twin(model, weights)
    images = {f"{h}x{w}": noise(spec["seed"] + 1 + i, spec["batch"], 3, h, w) for i, (h, w) in enumerate(spec["sizes"])}

    def run(model: nn.Module, x: Tensor, size: str) -> Tensors:
        out = model(pixel_values=x)
        patches = out.last_hidden_state[:, 1:].mean(1)
        return {f"last_hidden.{size}": out.last_hidden_state, f"pooled.{size}": out.pooler_output,
                f"patch_mean.{size}": patches}

    io: Tensors = {}
    for size, x in images.items():
        single = run(model, x, size)
        with Exact():
            compare(single, run(exact_model, x.double(), size))
        io |= {f"input.{size}": x, **single}
    write(folder, {"kind": "features", **spec}, io, weights=weights)


@torch.no_grad()
def dinov2_timm(folder: Path, spec: Spec) -> None:
    """Images of the table's size, or of another one, for which timm resamples its positions."""
    norm = partial(nn.LayerNorm, eps=spec.get("norm_eps", 1e-6))
    model = VisionTransformer(**chosen(spec, TIMM_ARGS), norm_layer=norm, dynamic_img_size="grid" in spec).eval()
    randomise(model, spec["seed"], special)
    height, width = (spec["patch_size"] * n for n in spec["grid"]) if "grid" in spec else (spec["img_size"],) * 2
    x = noise(spec["seed"] + 1, spec["batch"], 3, height, width)

    def run(model: nn.Module, x: Tensor) -> Tensors:
        tokens = model.forward_features(x)
        return {"eval.features": tokens, "eval.pooled_cls": model(x),
                "eval.linear_probe_in": torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)}

    single = run(model, x)
    with Exact():
        compare(single, run(copy.deepcopy(model).double(), x.double()))
    write(folder, {"kind": "features", **spec}, {"input": x, **single}, weights=model.state_dict())


def vision_names(name: str) -> str:
    """transformers writes CLIP's encoder of images without the prefix of the published files."""
    return name if name.startswith("vision_model.") else f"vision_model.{name}"


@torch.no_grad()
def clip_vision(folder: Path, spec: Spec) -> None:
    model = CLIPVisionModel(CLIPVisionConfig(**chosen(spec, CLIP_ARGS))).eval()
    randomise(model, spec["seed"], special)
    weights = published(model, vision_names)
    x = noise(spec["seed"] + 1, spec["batch"], 3, spec["image_size"], spec["image_size"])

    def run(model: nn.Module, x: Tensor) -> Tensors:
        out = model(pixel_values=x, output_hidden_states=True)
        return {"last_hidden": out.last_hidden_state, "pooled": out.pooler_output, "selected": out.hidden_states[-2][:, 1:]}

    single = run(model, x)
    with Exact():
        compare(single, run(twin(model, weights), x.double()))
    write(folder, {"kind": "features", **spec}, {"input": x, **single}, weights=weights)


WRITERS = {"dinov2_hf": dinov2_hf, "dinov2_timm": dinov2_timm, "clip_vision": clip_vision}


def features(folder: Path, spec: Spec) -> None:
    WRITERS[spec["architecture"]](folder, spec)
