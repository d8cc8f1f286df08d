"""The configurations of tests/fixtures. With `--seed 0`, what is drawn is what was drawn for those."""
from typing import Any

Spec = dict[str, Any]
APART = 1000
"""Between the seeds of one `--seed` and the next."""

VIT = {"architecture": "vit", "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3,
       "num_classes": 10}
TINY_VIT = {"architecture": "tiny_vit", "embed_dims": [16, 24, 32, 48], "depths": [2, 2, 2, 1],
            "num_heads": [1, 2, 4, 6], "window_sizes": [5, 5, 4, 3], "drop_path_rate": 0.0, "num_classes": 10,
            "input_size": 64}
ALL = ["qkv", "attn.proj", "fc1", "fc2"]
ADAMW = {"lr": 5e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05}
LORA = {"method": "lora", "r": 4, "lora_alpha": 8, "adapter_seed": 910}
ADALORA = {"method": "adalora", "init_r": 6, "target_r": 3, "lora_alpha": 8, "target_modules": ALL, "tinit": 2,
           "tfinal": 3, "deltaT": 2, "beta1": 0.85, "beta2": 0.85, "orth_reg_weight": 0.5, "total_step": 12, "steps": 12,
           "adapter_seed": 920, "optimizer_args": {**ADAMW, "lr": 2e-2}}


def backbones(shift: int) -> dict[str, Spec]:
    return {"vit_tiny_timm": {**VIT, "batch": 4, "seed": 100 + shift, "norm_eps": 1e-6},
            "tiny_vit_tiny": {**TINY_VIT, "batch": 4, "seed": 200 + shift}}


def full_sizes(_shift: int) -> dict[str, Spec]:
    return {f"full_{preset}": {"architecture": architecture, "preset": preset, "num_classes": 100, "batch": 2, "size": 224}
            for architecture, preset in (("vit", "vit_small_patch16_224"), ("tiny_vit", "tiny_vit_5m_224"))}


def based(shift: int, **more: Any) -> Spec:
    """On the ViT, five steps of AdamW unless `more` says otherwise."""
    if "adapter_seed" in more:
        more["adapter_seed"] += shift
    return {**VIT, "base_fixture": "vit_tiny_timm", "seed": 901 + shift, "batch": 8, "optimizer": "AdamW",
            "optimizer_args": ADAMW, "steps": 5, **more}


def traces(shift: int) -> dict[str, Spec]:
    sgd = {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}
    qlora = {**LORA, "method": "qlora", "quant_type": "nf4", "blocksize": 64, "double_quant": True}
    specs: dict[str, Spec] = {
        "train_full_adamw": {"method": "full"},
        "train_full_sgd": {"method": "full", "optimizer": "SGD", "optimizer_args": sgd},
        "peft_bitfit": {"method": "bitfit"},
        "peft_lora_qkv": {**LORA, "target_modules": ["qkv"]},
        "peft_lora_all": {**LORA, "target_modules": ALL},
        "peft_rslora_qkv": {**LORA, "target_modules": ["qkv"], "use_rslora": True},
        "peft_qlora": {**qlora, "target_modules": ALL},
        "peft_adalora": {**ADALORA, "orthogonal_term_in_loss": True},
        "peft_adalora_noorth": {**ADALORA, "orthogonal_term_in_loss": False},
    }
    tiny_vit = {**based(shift, **LORA, target_modules=ALL), **TINY_VIT, "base_fixture": "tiny_vit_tiny", "batch": 4}
    for key in VIT.keys() - TINY_VIT.keys():
        del tiny_vit[key]
    return {**{name: based(shift, **spec) for name, spec in specs.items()}, "peft_lora_tiny_vit": tiny_vit}


def merges(shift: int) -> dict[str, Spec]:
    return {"peft_lora_merge": based(shift, **LORA, target_modules=ALL, lora_B_std=0.05)}


def quantizations(shift: int) -> dict[str, Spec]:
    def case(name: str, shape: list[int], nested: bool, **more: Any) -> Spec:
        return {"name": name, "shape": shape, "nested": nested, "blocksize": 64, "dtype": "float32", "scale": 1.0,
                "what": "plain", **more}

    cases = [case("weight", [144, 48], True, scale=0.05), case("weight_plain", [144, 48], False, like="weight"),
             case("two_nested_blocks", [320, 64], True, what="rows"), case("ragged", [10, 13], True),
             case("ragged_plain", [7, 9], False), case("bf16", [64, 64], True, scale=0.1, dtype="bfloat16"),
             case("fp16", [64, 64], True, scale=0.1, dtype="float16"), case("blocksize128", [64, 64], True, blocksize=128),
             case("zeros_and_constant", [4, 64], False, what="blanks")]
    return {"nf4": {"seed": 950 + shift, "cases": cases}}


def preprocesses(shift: int) -> dict[str, Spec]:
    pictures = {"wide": (97, 61, 1 + shift), "tall": (45, 83, 2 + shift), "small": (20, 20, 3 + shift)}
    timm = {"timm_vit_small": "vit_small_patch16_224.augreg_in21k_ft_in1k",
            "timm_tiny_vit": "tiny_vit_5m_224.dist_in22k_ft_in1k", "timm_dinov2": "vit_small_patch14_dinov2.lvd142m"}
    return {"preprocess": {"size": 32, "pictures": pictures, "resized": [(32, 32), (40, 24)], "timm": timm}}
