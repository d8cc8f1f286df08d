"""HF PEFT's methods around a timm model, ready to be trained."""
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

import nf4
from backbones import arguments
from folder import Tensors

Spec = dict[str, Any]


def multiply(x: Tensor, packed: Tensor, quant_state: QuantState, bias: Tensor | None = None) -> Tensor:
    """What bitsandbytes' linear layer computes, with a decoding that is right for every width: see nf4.py."""
    return linear(x, nf4.decode(packed, quant_state).to(x.dtype), bias)


bnb.matmul_4bit = multiply


@dataclass
class Prepared:
    """A model under its method."""
    model: nn.Module
    call: Callable[..., SimpleNamespace]
    """Images and labels to loss and logits."""
    after: Callable[[int], Spec] | None = None
    """What happens after step n of the optimiser, and what is told of it."""


def plain(name: str) -> str:
    """A parameter's name without PEFT's wrappers."""
    return name.replace("base_model.model.", "").replace(".modules_to_save.default", "")


def base(spec: Spec, weights: Tensors) -> nn.Module:
    """timm's model with its loss beside its logits, as PEFT's AdaLoRA wants them."""
    cls, args = arguments(spec)

    class Classifier(cls):
        def forward(self, x: Tensor, labels: Tensor) -> SimpleNamespace:
            logits = super().forward(x)
            return SimpleNamespace(loss=cross_entropy(logits, labels), logits=logits)

    model = Classifier(**args)
    model.load_state_dict(weights)
    return model


def head(spec: Spec) -> str:
    return "head" if spec["architecture"] == "vit" else "head.fc"


def blocks(spec: Spec) -> tuple[str, str]:
    """How the names of linear layers inside of blocks begin, and how the layers are called."""
    return "blocks." if spec["architecture"] == "vit" else "stages."


def pack(model: nn.Module, spec: Spec) -> Tensors:
    """Packs the linear layers of the blocks in 4 bits; what their weights mean then."""
    meanings: Tensors = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(blocks(spec))}
    for name, layer in layers.items():
        packed = Linear4bit(layer.in_features, layer.out_features, compute_dtype=torch.float32, quant_type="nf4")
        packed.weight = Params4bit(layer.weight.detach().clone(), requires_grad=False, quant_type="nf4",
                                   blocksize=spec["blocksize"], compress_statistics=spec["double_quant"])
        packed.bias = layer.bias
        packed.support_avx512bf16_for_cpu = False  # that path rounds scales to bf16
        parent, leaf = name.rsplit(".", 1)
        setattr(model.get_submodule(parent), leaf, packed.to("cpu"))
        meanings[f"{name}.weight"] = nf4.decode(packed.weight.data, packed.weight.quant_state)
    model.is_loaded_in_4bit = True
    return meanings


def lora(model: nn.Module, spec: Spec) -> nn.Module:
    torch.manual_seed(spec["adapter_seed"])
    return get_peft_model(model, LoraConfig(
        r=spec["r"], lora_alpha=spec["lora_alpha"], lora_dropout=0.0, bias="none", modules_to_save=[head(spec)],
        target_modules=spec["target_modules"], use_rslora=spec.get("use_rslora", False)))


ADALORA = ("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step",
           "lora_alpha", "target_modules")


def layer_of(name: str) -> str:
    """The layer that an E of AdaLoRA belongs to."""
    return plain(name).replace(".default", "").removesuffix(".lora_E")


def adalora(spec: Spec, weights: Tensors) -> Prepared:
    torch.manual_seed(spec["adapter_seed"])
    config = AdaLoraConfig(lora_dropout=0.0, bias="none", modules_to_save=[head(spec)], **{k: spec[k] for k in ADALORA})
    model = get_peft_model(base(spec, weights), config)
    tuner = model.base_model

    def after(step: int) -> Spec:
        budget, masks = tuner.rankallocator.budget_schedule(step)
        tuner.update_and_allocate(step)
        pattern = {layer_of(k): v for k, v in (model.peft_config["default"].rank_pattern or {}).items()}
        values = {layer_of(n): int(p.count_nonzero()) for n, p in model.named_parameters() if "lora_E" in n}
        return {"step": step, "scheduled_budget": budget, "scheduled_mask": bool(masks), "pattern": pattern or None,
                "ranks": {k: sum(v) for k, v in pattern.items()} or None, "nonzero_E": values}

    # PEFT adds the orthogonal term in the tuner's own forward, which a model without a task type does not call.
    return Prepared(model, tuner if spec["orthogonal_term_in_loss"] else model, after)


def prepare(spec: Spec, weights: Tensors) -> tuple[Prepared, Tensors]:
    """The model under the method of `spec`; what its packed weights mean, where some are packed."""
    method, meanings = spec["method"], {}
    if method == "adalora":
        return adalora(spec, weights), meanings
    model = base(spec, weights)
    if method == "bitfit":
        for name, param in model.named_parameters():
            param.requires_grad = name.endswith(".bias") or name.startswith(head(spec) + ".")
    elif method in ("lora", "qlora"):
        meanings = pack(model, spec) if method == "qlora" else {}
        model = lora(model, spec)
    return Prepared(model, model), meanings
