"""Kind `preprocess`: Pillow's filters, and the image processors of timm, OpenCLIP, SigLIP and Idefics3 (SmolVLM)."""
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from folder import Tensors, write

Spec = dict[str, Any]
FILTERS = {f.name.lower(): f for f in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC,
                                      Image.Resampling.LANCZOS)}


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Slanted waves, another in each colour, under noise, so that an error of resampling shows anywhere."""
    random = np.random.default_rng(seed)
    x, y = np.arange(width) / width, np.arange(height)[:, None] / height
    colours = []
    for _ in range(3):
        across, down, phase = random.uniform(2, 9), random.uniform(2, 9), random.uniform(0, 6)
        wave = np.sin(2 * np.pi * (across * x + down * y) + phase)
        colours.append(127 + 90 * wave + random.normal(0, 12, (height, width)))
    return Image.fromarray(np.clip(np.dstack(colours), 0, 255).astype(np.uint8))


def pixels(image: Image.Image) -> Tensor:
    """(height, width, 3), bytes."""
    return torch.from_numpy(np.array(image))


def timm_config(model: str) -> Spec:
    """What timm says of a public checkpoint's pictures."""
    told = resolve_model_data_config(timm.create_model(model, pretrained=False))
    return {k: list(v) if isinstance(v, tuple) else v for k, v in told.items()}


def apply_timm(config: Spec, size: int, image: Image.Image) -> Tensor:
    return create_transform(**{**config, "input_size": (3, size, size)}, is_training=False)(image)


def processed(spec: Spec, image: Image.Image) -> Tensors:
    """The picture through every processor, at a small size."""
    size = spec["size"]
    clip = open_clip.image_transform(size, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN,
                                     std=open_clip.OPENAI_DATASET_STD)
    siglip = SiglipImageProcessorPil(size={"height": size, "width": size})
    tiles = Idefics3ImageProcessorPil(size={"longest_edge": 2 * size}, max_image_size={"longest_edge": size})
    pixels_of = lambda processor: processor(image, return_tensors="pt")["pixel_values"][0]  # noqa: E731
    out = {"open_clip": clip(image), "siglip": pixels_of(siglip), "smolvlm": pixels_of(tiles)}
    return out | {name: apply_timm(config, size, image) for name, config in spec["timm"].items()}


def preprocess(folder: Path, spec: Spec) -> None:
    spec = {**spec, "timm": {k: timm_config(c) if isinstance(c, str) else c for k, c in spec["timm"].items()}}
    io: Tensors = {}
    for name, (width, height, seed) in spec["pictures"].items():
        image = picture(width, height, seed)
        io[f"{name}.input"] = pixels(image)
        for filter_name, code in FILTERS.items():
            for w, h in spec["resized"]:
                io[f"{name}.{filter_name}.w{w}h{h}"] = pixels(image.resize((w, h), code))
        io |= {f"{name}.{how}": t for how, t in processed(spec, image).items()}
    config = {"kind": "preprocess", "architecture": "none", "notes": spec["timm"], "size": spec["size"]}
    write(folder, config, io)
