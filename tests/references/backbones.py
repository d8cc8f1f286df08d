"""Kind `backbone`: timm's VisionTransformer and TinyVit, Vim and MambaVision, at any size, and full-size presets with weights from a formula."""
import copy
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from timm.models.tiny_vit import TinyVit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import formula
import mamba
from folder import Tensors, double, labels, noise, randomise, steady, write

Spec = dict[str, Any]
VIT_ARGS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes", "mlp_ratio")
TINY_ARGS = ("embed_dims", "depths", "num_heads", "window_sizes", "num_classes", "mlp_ratio", "drop_path_rate",
             "mbconv_expand_ratio", "local_conv_size")


def architecture(spec: Spec) -> Spec:
    """The keys of `spec` that describe the model."""
    keys = ("architecture", *VIT_ARGS, "norm_eps", *TINY_ARGS, "input_size")
    return {k: spec[k] for k in dict.fromkeys(keys) if k in spec}


def arguments(spec: Spec) -> tuple[type[nn.Module], dict[str, Any]]:
    """timm's class, and what to call it with."""
    if spec["architecture"] == "vit":
        norm = partial(nn.LayerNorm, eps=spec.get("norm_eps", 1e-6))
        return VisionTransformer, {**{k: spec[k] for k in VIT_ARGS if k in spec}, "norm_layer": norm}
    return TinyVit, {k: spec[k] for k in TINY_ARGS if k in spec}


def build(spec: Spec) -> nn.Module:
    if spec["architecture"] in ("vim", "mambavision"):
        return mamba.from_config(spec)
    cls, args = arguments(spec)
    return cls(**args)


def side(spec: Spec) -> int:
    """Side of the model's images, pixels."""
    return spec["img_size"] if "img_size" in spec else spec["input_size"]


def macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of matrix products and convolutions for one image. Fused attention hides its products; a scan is
    neither, though it may read its states by a product, and is left out.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    without_scan = patch.object(mamba, "selective_scan", lambda u, *_: torch.zeros_like(u))
    with torch.no_grad(), without_scan, FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops() // 2


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """What is compared on the way: the patches, and every block of a ViT or Vim, stage of a TinyViT or level of a
    MambaVision."""
    sequence = next(name for name in ("blocks", "stages", "layers", "levels") if hasattr(model, name))
    end = ".hidden" if sequence == "layers" else ""
    numbered = {f"{sequence}.{i}{end}": part for i, part in enumerate(getattr(model, sequence))}
    return {"patch_embed": model.patch_embed, **numbered}


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor) -> Tensors:
    model.eval()
    out: Tensors = {}
    for name, part in parts(model).items():
        # A Vim's block gives what its mixer made, and the sum before that.
        first = lambda o: o[0] if isinstance(o, tuple) else o  # noqa: E731
        part.register_forward_hook(lambda _m, _i, o, name=name: out.__setitem__(f"eval.stage.{name}", first(o)))
    out["eval.logits"] = model(x)
    stages = dict(out)
    return {**stages, "eval.features": model.forward_features(x)}


def train(model: nn.Module, x: Tensor, y: Tensor) -> Tensors:
    """One pass in training mode: logits, loss, all gradients, and the running statistics after it."""
    model.train()
    logits = model(x)
    loss = cross_entropy(logits, y)
    loss.backward()
    out = {"train.logits": logits.detach(), "train.loss": loss.detach().reshape(1)}
    # A batch norm takes away what a bias right before it adds: the exact gradient is zero, and what is computed is rounding.
    undone = {f"{n}.bias" for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and n.endswith((".conv1", ".conv2"))}
    out |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None and n not in undone}
    return out | {f"post.{n}": b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))}


def norms(tensors: Tensors, prefix: str) -> dict[str, float]:
    """2-norms, summed in f64, of the tensors whose names begin with `prefix`."""
    return {k.removeprefix(prefix): float(t.double().norm()) for k, t in tensors.items() if k.startswith(prefix)}


def compared(model: nn.Module, twin: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensors, Tensors]:
    """What `model` computes in f32 and `twin` in f64."""
    single = evaluate(copy.deepcopy(model), x) | train(copy.deepcopy(model), x, y)
    return single, evaluate(copy.deepcopy(twin), x.double()) | train(twin, x.double(), y)


def check(single: Tensors, exact: Tensors) -> None:
    """Raises `Unsteady` where the two are too far apart."""
    for name, value in exact.items():
        steady(name, single[name], value, *((1e-6, 1e-4) if name.startswith("grad.") else (1e-5,)))


def backbone(folder: Path, spec: Spec) -> None:
    """Random weights, which the folder stores; outputs in f32, logits in f64 too."""
    seed, size = spec["seed"], side(spec)
    torch.manual_seed(seed)
    model = build(spec)
    randomise(model, seed)
    weights = {k: t.clone() for k, t in model.state_dict().items()}
    twin = build(spec).double()
    twin.load_state_dict(double(weights))
    x, y = noise(seed + 1, spec["batch"], 3, size, size), labels(seed + 2, spec["batch"], spec["num_classes"])
    single, exact = compared(model, twin, x, y)
    check(single, exact)
    io = {"input": x, "labels": y, **single, "eval.logits_f64": exact["eval.logits"]}
    config = {"kind": "backbone", **spec, "train_loss": float(single["train.loss"]), "macs": macs(model, x[:1]),
              "param_count": sum(p.numel() for p in model.parameters()), "grad_norms": norms(single, "grad.")}
    write(folder, config, io, weights=weights)


def full_size(folder: Path, spec: Spec) -> None:
    """A preset whose weights and images follow from a formula, so that the folder stores outputs only."""
    prefix, classes, size = spec.get("name_prefix", ""), spec["num_classes"], spec["size"]
    sized = {"img_size": size} if spec["architecture"] == "vit" else {}
    model = timm.create_model(spec["preset"], num_classes=classes, drop_path_rate=0.0, **sized)
    formula.fill(model, prefix)
    twin = copy.deepcopy(model).double()
    x = formula.images(prefix, spec["batch"], size)
    y = torch.tensor([(b * 37 + 11) % classes for b in range(spec["batch"])])
    single, exact = compared(model, twin, x, y)
    stored = ("eval.logits", "train.logits", "train.loss")
    check({k: single[k] for k in stored}, {k: exact[k] for k in stored})
    config = {"kind": "backbone", **spec, "weights": "procedural", "labels": y.tolist(),
              "train_loss": float(single["train.loss"]), "macs": macs(model, x[:1]),
              "param_count": sum(p.numel() for p in model.parameters()), "grad_norms": norms(single, "grad."),
              "state_dict": {k: list(t.shape) for k, t in model.state_dict().items()}}
    write(folder, config, {k: single[k] for k in stored})
