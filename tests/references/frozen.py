"""What folders of models that are not trained have in common: published names, and everything a second time in f64."""
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from folder import Tensors, Unsteady, steady

Rename = Callable[[str], str]
ABSOLUTE, RELATIVE = 1e-7, 1e-4
"""What an implementation may be from embeddings, and from what is made of them."""

disable_progress_bar()


def special(name: str, normal: Tensor) -> Tensor | None:
    """Values of tensors that layers of the usual names do not have; see `folder.randomise`."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "logit_scale":
        return 2.0 + 0.5 * normal
    if leaf == "logit_bias":
        return -2.0 + normal
    if leaf == "in_proj_bias":
        return 0.1 * normal
    if leaf in ("gamma", "lambda1") or any(s in name for s in ("class_embedding", "position", "mask_token", "probe")):
        return 0.3 * normal
    return None


class Exact(TorchFunctionMode):
    """Makes f64 of every f32 that a model asks for on its way, as in norms and rotations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        double = lambda x: torch.float64 if x is torch.float32 else x  # noqa: E731
        if func is Tensor.float:
            return args[0].double()
        return func(*map(double, args), **{k: double(v) for k, v in (kwargs or {}).items()})


def published(model: PreTrainedModel, rename: Rename = lambda k: k) -> Tensors:
    """The weights under the names of their file, which transformers changes in memory; `rename` undoes what it leaves out
    of a file that it writes."""
    with tempfile.TemporaryDirectory() as d:
        model.save_pretrained(d)
        return {rename(k): t for k, t in load_file(Path(d) / "model.safetensors").items()}


def twin(model: PreTrainedModel, weights: Tensors) -> PreTrainedModel:
    """The same model in f64, read from the published weights: all of them, and no others."""
    with tempfile.TemporaryDirectory() as d:
        model.config.save_pretrained(d)
        save_file({k: t.contiguous() for k, t in weights.items()}, Path(d) / "model.safetensors", {"format": "pt"})
        copy, told = type(model).from_pretrained(d, dtype=torch.float64, output_loading_info=True)
    if strange := {k: v for k, v in told.items() if v}:
        raise ValueError(f"{type(model).__name__} does not read its published weights as they are: {strange}")
    exact_rotations(copy)
    return copy.eval()


def exact_rotations(model: nn.Module) -> None:
    """The frequencies of rotary positions in f64; a copy has them in f32."""
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            theta, count = module.config.rope_parameters["rope_theta"], module.inv_freq.numel()
            module.inv_freq = theta ** -(torch.arange(count, dtype=torch.float64) / count)


def compare(single: Tensors, exact: Tensors) -> None:
    """Raises `Unsteady` where f32 is too far from f64."""
    for name, value in exact.items():
        if value.is_floating_point():
            steady(name, single[name], value, ABSOLUTE, RELATIVE)


def sure(tokens: list[int], logits: Tensor) -> None:
    """Raises `Unsteady` unless `tokens` are the best of `logits` (tokens, vocabulary), so far ahead of the next that an
    implementation within its tolerance finds them too."""
    for step, (token, row) in enumerate(zip(tokens, logits.double(), strict=True)):
        best, at = row.topk(2)
        allowed = 2 * RELATIVE * float(logits.abs().max())
        if int(at[0]) != token or float(best[0] - best[1]) <= allowed:
            raise Unsteady(f"token {step}: the two best are {float(best[0] - best[1]):.1e} apart, {allowed:.1e} is too near")
