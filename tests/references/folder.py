"""A reference folder: config.json, io.safetensors, and weights.safetensors where weights are stored."""
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]
Special = Callable[[str, Tensor], Tensor | None]
PACKAGES = ("torch", "timm", "peft", "bitsandbytes", "transformers", "open_clip_torch", "pillow", "numpy", "safetensors")


class Unsteady(Exception):
    """The reference in f32 would fail a comparison with itself in f64: the results depend on rounding."""


def write(folder: Path, config: dict[str, Any], io: Tensors, **more: Tensors) -> None:
    """Writes the folder; `more` are further files by their names, without the ending."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}
    (folder / "config.json").write_text(json.dumps({**config, "versions": versions}, indent=1) + "\n")
    for name, tensors in {"io": io, **more}.items():
        file = folder / f"{name}.safetensors"
        save_file({k: t.detach().clone().contiguous() for k, t in tensors.items()}, file)
        file.chmod(0o644)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, *shape: int) -> Tensor:
    """Normal numbers that depend on nothing but the seed and the shape."""
    return torch.randn(*shape, generator=generator(seed))


def labels(seed: int, batch: int, classes: int) -> Tensor:
    return torch.randint(0, classes, (batch,), generator=generator(seed))


def double(tensors: Tensors) -> Tensors:
    return {k: t.double() if t.is_floating_point() else t for k, t in tensors.items()}


def usual(name: str, normal: Tensor) -> Tensor:
    """Values of layers' tensors, made of normal numbers of their shape."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "weight" and normal.ndim == 1:
        return 1.0 + 0.2 * normal
    if leaf in ("bias", "running_mean", "attention_biases"):
        return 0.1 * normal
    if leaf in ("cls_token", "pos_embed"):
        return 0.3 * normal
    return normal * (1.0 / math.sqrt(math.prod(normal.shape[1:])))


@torch.no_grad()
def randomise(model: nn.Module, seed: int, special: Special = lambda _name, _normal: None) -> None:
    """Values that no computation can leave out unnoticed: no zero bias, no unit norm, no fresh running statistics.

    Tensors are filled in the order of their names, so that the values do not depend on how the model was built. What
    `special` makes of a tensor's name and normal numbers goes before what is usual, where it makes something of them.
    """
    g = generator(seed)
    state = {k: t for k, t in model.state_dict().items() if t.is_floating_point()}
    for name in sorted(state):
        tensor = state[name]
        normal = torch.randn(tensor.shape, generator=g)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=g))
            continue
        value = special(name, normal)
        tensor.copy_(usual(name, normal) if value is None else value)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference."""
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def steady(what: str, single: Tensor, exact: Tensor, absolute: float = 0.0, relative: float = 0.0) -> None:
    """Raises `Unsteady` where f32 is further from f64 than an implementation may be from f32."""
    allowed = max(absolute, relative * float(exact.abs().max()) if exact.numel() else 0.0)
    if not (found := apart(single, exact)) <= allowed:
        raise Unsteady(f"{what}: f32 is {found:.1e} from f64, an implementation may be {allowed:.1e} from f32")
