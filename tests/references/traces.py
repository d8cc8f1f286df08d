"""Kinds `training_trace` and `merge`: steps of a method on the weights of a neighbouring folder, and merged adapters."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from backbones import norms, side
from folder import Tensors, Unsteady, double, generator, labels, noise, steady, write
from methods import Prepared, base, lora, plain, prepare

Spec = dict[str, Any]
TRAIN_NOTE = ("rows of attn.qkv.bias that belong to keys: softmax makes their exact gradient zero, and AdamW makes steps "
              "of the rounding noise that is left; neither losses nor logits depend on them")


@dataclass
class Trace:
    """What is compared."""
    losses: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    told: list[Spec] = field(default_factory=list)
    tensors: Tensors = field(default_factory=dict)
    final_loss: float = 0.0


def trainable(prepared: Prepared) -> Tensors:
    return {plain(n): p for n, p in prepared.model.named_parameters() if p.requires_grad}


def follow(prepared: Prepared, spec: Spec, x: Tensor, y: Tensor) -> Trace:
    """Trains for the steps of `spec`."""
    params, out = trainable(prepared), Trace()
    optimizer = getattr(torch.optim, spec["optimizer"])(params.values(), **spec["optimizer_args"])
    out.tensors |= {f"init.{n}": p.detach().clone() for n, p in params.items()}
    prepared.model.train()
    for step in range(1, spec["steps"] + 1):
        optimizer.zero_grad()
        result = prepared.call(x, labels=y)
        result.loss.backward()
        if step == 1:
            out.tensors["step1.logits"] = result.logits.detach().clone()
            out.tensors |= {f"grad1.{n}": p.grad.clone() for n, p in params.items()}
        out.losses.append(float(result.loss.detach()))
        out.entropies.append(float(cross_entropy(result.logits.detach(), y)))
        optimizer.step()
        if prepared.after:
            out.told.append(prepared.after(step))
    out.tensors |= {f"final.{n}": p.detach() for n, p in params.items()}
    out.tensors |= {f"post.{plain(n)}": b.clone() for n, b in prepared.model.named_buffers()
                    if n.endswith(("running_mean", "running_var"))}
    with torch.no_grad():
        prepared.model.eval()
        out.tensors["final.logits"] = prepared.model(x, labels=y).logits
    out.final_loss = float(cross_entropy(out.tensors["final.logits"], y))
    return out


def twin(spec: Spec, weights: Tensors, prepared: Prepared, meanings: Tensors) -> Prepared:
    """The same in f64. Packed weights are replaced by what they mean."""
    if spec["method"] == "qlora":
        spec, weights = {**spec, "method": "lora"}, {**weights, **meanings}
    other, _ = prepare(spec, weights)
    begun = trainable(prepared)
    with torch.no_grad():
        for name, param in trainable(other).items():
            param.copy_(begun[name])
    other.model.double()
    return other


def key_rows(spec: Spec, name: str, rows: int) -> Tensor:
    """Which rows of an attention's bias belong to its keys: see `TRAIN_NOTE`."""
    heads = 1 if spec["architecture"] == "vit" else spec["num_heads"][int(name.split(".")[1])]
    return torch.arange(rows) // (rows // heads // 3) % 3 == 1


def compare(spec: Spec, single: Trace, exact: Trace) -> None:
    """Raises `Unsteady` where the trace depends on rounding."""
    if single.told != exact.told:
        raise Unsteady("other ranks in f64")
    steady("losses", torch.tensor(single.losses), torch.tensor(exact.losses), 1e-4)
    steady("final loss", torch.tensor(single.final_loss), torch.tensor(exact.final_loss), 1e-4)
    for name, value in exact.tensors.items():
        mine = single.tensors[name]
        if name.startswith("grad1."):
            steady(name, mine, value, 1e-6, 1e-4)
        elif name == "step1.logits":
            steady(name, mine, value, 1e-5)
        elif name.endswith("attn.qkv.bias") and spec["optimizer"] == "AdamW":
            rest = ~key_rows(spec, name.removeprefix("final."), len(value))
            steady(name, mine[rest], value[rest], 1e-4)
        else:
            steady(name, mine, value, 1e-4)


def training_trace(folder: Path, spec: Spec) -> None:
    """On the weights of the folder that `base_fixture` names, which must lie beside this one."""
    weights = load_file(folder.with_name(spec["base_fixture"]) / "weights.safetensors")
    size = side(spec)
    x = noise(spec["seed"], spec["batch"], 3, size, size)
    y = labels(spec["seed"] + 1, spec["batch"], spec["num_classes"])
    prepared, meanings = prepare(spec, weights)
    total = sum(p.numel() for p in prepared.model.parameters())
    other = twin(spec, weights, prepared, meanings)
    single, exact = follow(prepared, spec, x, y), follow(other, spec, x.double(), y)
    compare(spec, single, exact)
    params = trainable(prepared)
    config = {"kind": "training_trace", **spec, "losses": single.losses, "cross_entropy": single.entropies,
              "final_loss": single.final_loss, "grad_norms_step1": norms(single.tensors, "grad1."),
              "trainable": list(params), "trainable_params": sum(p.numel() for p in params.values()),
              "total_params": total}
    if single.told:
        config["final_rank_pattern"] = single.told[-1]["pattern"]
        config["per_step"] = [{k: v for k, v in told.items() if k != "pattern"} for told in single.told]
    if spec["optimizer"] == "AdamW" and any(n.endswith("attn.qkv.bias") for n in params):
        config["not_comparable"] = TRAIN_NOTE
    quantised = {"quantised": {f"dequant.{k}": t for k, t in meanings.items()}} if meanings else {}
    write(folder, config, {"input": x, "labels": y, **single.tensors}, **quantised)


def merge(folder: Path, spec: Spec) -> None:
    """A model with adapters that do something, and the same with the adapters merged into its weights."""
    weights = load_file(folder.with_name(spec["base_fixture"]) / "weights.safetensors")
    model = lora(base(spec, weights), spec)
    g = generator(spec["adapter_seed"] + 1)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name:
                param.copy_(spec["lora_B_std"] * torch.randn(param.shape, generator=g))
    size = side(spec)
    x, y = noise(spec["seed"], spec["batch"], 3, size, size), labels(0, spec["batch"], spec["num_classes"])
    state = {n: p.detach().clone() for n, p in model.named_parameters()}
    io = {"input": x, **{f"adapter.{plain(n)}": p for n, p in state.items() if "lora_" in n or "modules_to_save" in n}}
    other = lora(base(spec, weights), spec).double()
    other.load_state_dict(double(state), strict=False)
    with torch.no_grad():
        io["adapter.logits"] = model.eval()(x, labels=y).logits
        steady("adapter.logits", io["adapter.logits"], other.eval()(x.double(), labels=y).logits, 1e-5)
        layers = {plain(n).removesuffix(".lora_A.default.weight") for n in state if ".lora_A." in n}
        merged = model.merge_and_unload()
        io["merged.logits"] = merged(x, labels=y).logits
        io |= {f"merged.{n}.weight": merged.get_submodule(n).weight for n in layers}
    write(folder, {"kind": "merge", **spec}, io)
