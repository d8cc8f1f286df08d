"""Configurations drawn at random: sizes that a model's author would not choose, and an examiner would."""
from random import Random
from typing import Any

from fixed import ALL

Spec = dict[str, Any]


def any_seed(r: Random) -> int:
    return r.randrange(1 << 30)


def decade(r: Random, low: float, high: float) -> float:
    """A number whose logarithm is uniform between the powers of ten, of four digits."""
    return float(f"{10 ** r.uniform(low, high):.3e}")


def vit(r: Random) -> Spec:
    patch, heads = r.choice([1, 2, 3, 4, 7, 8, 14, 16]), r.choice([1, 1, 2, 3, 5])
    spec = {"architecture": "vit", "img_size": patch * r.choice([1, 2, 3, 5]), "patch_size": patch,
            "embed_dim": heads * r.randint(6, 20), "depth": r.randint(1, 4), "num_heads": heads,
            "num_classes": r.choice([1, 2, 3, 10, 37]), "batch": r.choice([1, 2, 3, 4]), "seed": any_seed(r)}
    spec |= {"mlp_ratio": r.choice([0.5, 1.0, 2.5, 3.3, 4.0])} if r.random() < 0.7 else {}
    return spec | ({"norm_eps": r.choice([1e-6, 1e-5, 1e-3])} if r.random() < 0.7 else {})


def tiny_vit(r: Random) -> Spec:
    """Maps of two by two pixels at least, because batch norm needs several values.

    No local convolution of one pixel: it only scales what batch norm scales back, so that its exact gradient is zero.
    """
    stages = r.choice([1, 2, 3, 4, 4, 4])
    heads = [r.choice([1, 1, 2, 3, 4]) for _ in range(stages)]
    dims = [h * r.randint(5, 12) for h in heads]
    last = 4 << (stages - 1)
    size = r.randint(max(last + 1, 16), max(3 * last, 24))
    spec = {"architecture": "tiny_vit", "embed_dims": dims, "depths": [r.randint(1, 2) for _ in dims], "num_heads": heads,
            "window_sizes": [r.choice([1, 2, 3, 4, 5, 7, 14]) for _ in dims], "drop_path_rate": 0.0,
            "num_classes": r.choice([1, 2, 10, 23]), "input_size": size, "batch": r.choice([2, 3, 4]), "seed": any_seed(r)}
    spec |= {"mlp_ratio": r.choice([1.0, 2.5, 4.0])} if r.random() < 0.5 else {}
    spec |= {"mbconv_expand_ratio": r.choice([1.0, 2.5, 4.0])} if r.random() < 0.5 else {}
    return spec | ({"local_conv_size": r.choice([3, 5])} if r.random() < 0.3 else {})


def vim(r: Random) -> Spec:
    """Strides other than the patch, too: patches that overlap, or leave gaps."""
    patch = r.choice([2, 4, 5, 8])
    stride = r.choice([patch, patch, max(1, patch // 2), patch + 1])
    spec = {"architecture": "vim", "img_size": patch + stride * r.randint(0, 5), "patch_size": patch, "stride": stride,
            "embed_dim": r.choice([8, 17, 32, 40]), "depth": r.randint(1, 3), "d_state": r.choice([1, 2, 5, 16, 32]),
            "d_conv": r.choice([1, 2, 3, 4]), "expand": r.choice([1, 2, 3]), "num_classes": r.choice([1, 2, 10]),
            "batch": r.choice([1, 2, 3]), "seed": any_seed(r)}
    return spec | ({"norm_eps": r.choice([1e-6, 1e-3])} if r.random() < 0.5 else {})


def mambavision(r: Random) -> Spec:
    """Maps of two by two pixels at least at the end, because batch norm needs several values."""
    dim, first = 4 * r.randint(1, 3), r.choice([1, 2])
    spec = {"architecture": "mambavision", "dim": dim, "in_dim": r.randint(3, 9),
            "depths": [r.randint(1, 2), r.randint(1, 2), r.randint(1, 4), r.randint(1, 3)],
            "num_heads": [1, 1, first, 2 * first], "window_size": [8, 8, r.choice([1, 2, 3, 4, 5, 7]), r.choice([2, 3, 4, 7])],
            "mlp_ratio": r.choice([1.0, 2.5, 4]), "input_size": r.randint(33, 90), "num_classes": r.choice([2, 10, 23]),
            "d_state": r.choice([1, 3, 8, 16]), "d_conv": r.choice([2, 3, 4]), "batch": r.choice([2, 3]),
            "seed": any_seed(r)}
    spec |= {"layer_scale": decade(r, -2, 0)} if r.random() < 0.5 else {}
    return spec | ({"layer_scale_conv": decade(r, -2, 0)} if r.random() < 0.5 else {})


def full_size(r: Random) -> Spec:
    preset = r.choice(["vit_tiny_patch16_224", "vit_small_patch16_224", "tiny_vit_5m_224", "tiny_vit_11m_224",
                       "tiny_vit_21m_224"])
    architecture = "vit" if preset.startswith("vit") else "tiny_vit"
    size = 16 * r.randint(1, 14) if architecture == "vit" else r.randint(65, 224)
    return {"architecture": architecture, "preset": preset, "num_classes": r.choice([2, 100, 102]), "batch": 2,
            "size": size, "name_prefix": r.choice(["", f"{r.randrange(1000)}/"])}


def layers(spec: Spec) -> list[str]:
    """Full names of the blocks' linear layers."""
    if spec["architecture"] == "vit":
        places = [f"blocks.{i}" for i in range(spec["depth"])]
    else:
        places = [f"stages.{s}.blocks.{i}" for s, n in enumerate(spec["depths"]) if s for i in range(n)]
    return [f"{p}.{name}" for p in places for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


def targets(r: Random, spec: Spec) -> list[str]:
    """Ends of layers' names, or some full names."""
    all_of_them = layers(spec)
    some = r.sample(all_of_them, r.randint(1, min(3, len(all_of_them))))
    return r.choice([["qkv"], ["attn.proj"], ["fc1", "fc2"], ["attn.qkv", "mlp.fc2"], ALL, ALL, some, some])


def most_ranks(spec: Spec) -> int:
    """Ranks that each of the blocks' linear layers has."""
    widths = [spec["embed_dim"]] if spec["architecture"] == "vit" else spec["embed_dims"][1:]
    return int(min(widths) * min(1.0, spec.get("mlp_ratio", 4.0)))


def base(r: Random) -> Spec:
    """A backbone for a trace: with an attention block, and no window of one pixel.

    In such a window queries and keys have an exact gradient of zero, and AdamW makes steps of what rounding leaves.
    """
    spec = vit(r) if r.random() < 0.6 else tiny_vit(r)
    while spec["architecture"] == "tiny_vit" and (len(spec["depths"]) < 2 or 1 in spec["window_sizes"][1:]):
        spec = tiny_vit(r)
    return spec


def optimizer(r: Random, method: str, architecture: str) -> Spec:
    """AdamW, and SGD where AdamW makes steps of noise.

    A bias right before a batch norm has an exact gradient of zero, as the last fc2 before each of TinyViT's downsamplings;
    AdamW moves it by rounding noise, which the running statistics, and so the final logits, then show.
    """
    noisy = architecture == "tiny_vit" and method in ("full", "bitfit")
    if noisy or r.random() < 0.3:
        args = {"lr": decade(r, -3, -1.5), "momentum": r.choice([0.0, 0.9]), "weight_decay": r.choice([0.0, 1e-4, 0.05])}
        return {"optimizer": "SGD", "optimizer_args": args}
    args = {"lr": decade(r, -4, -2), "betas": r.choice([[0.9, 0.999], [0.8, 0.95]]), "eps": r.choice([1e-8, 1e-6]),
            "weight_decay": r.choice([0.0, 0.01, 0.3])}
    return {"optimizer": "AdamW", "optimizer_args": args}


def low_rank(r: Random, spec: Spec) -> Spec:
    most = most_ranks(spec)
    rank = min(r.choice([1, 2, 3, 4, 8, most, most]), most)
    chosen = {"r": rank, "lora_alpha": r.choice([0.25, 1, 2 * rank, 8, 16, 64, 256]), "target_modules": targets(r, spec),
              "adapter_seed": any_seed(r)}
    return chosen | ({"use_rslora": r.random() < 0.5} if r.random() < 0.5 else {})


def adaptive(r: Random, spec: Spec) -> Spec:
    """PEFT fails where a mask is due and no rank is to go, so the target is below the beginning unless no mask is due.

    It also fails where the last mask is due after the first step, of which it keeps no importance.
    """
    most = most_ranks(spec)
    init_r = min(r.randint(2, 8), most)
    tinit, tfinal, delta = r.randint(0, 4), r.randint(0, 3), r.randint(1, 4)
    total = tinit + tfinal + r.randint(1, 8) + (tinit == 0)
    steps = r.choice([total, total, total, max(1, total - r.randint(1, 5)), total + 2])
    chosen = {"init_r": init_r, "target_r": r.randint(0, init_r - 1), "tinit": tinit, "tfinal": tfinal, "deltaT": delta,
              "total_step": total, "steps": steps}
    if r.random() < 0.1:
        chosen |= {"target_r": init_r, "deltaT": 50, "steps": total - tfinal - 1 or 1, "tfinal": tfinal}
    return {**chosen, "lora_alpha": r.choice([0.5, 1, 8, 32, 128]), "beta1": r.choice([0.1, 0.5, 0.85, 0.95]),
            "beta2": r.choice([0.1, 0.5, 0.85, 0.95]), "orth_reg_weight": decade(r, -3, 0),
            "orthogonal_term_in_loss": r.random() < 0.5, "target_modules": targets(r, spec), "adapter_seed": any_seed(r)}


def trace(r: Random, method: str) -> tuple[Spec, Spec]:
    """A trace, and the backbone that it is based on."""
    of = base(r)
    spec = {**{k: v for k, v in of.items() if k not in ("batch", "seed")}, "method": method, "seed": any_seed(r),
            "batch": r.randint(2, 8), "steps": r.randint(1, 8), **optimizer(r, method, of["architecture"])}
    if method in ("lora", "qlora"):
        spec |= low_rank(r, of)
    if method == "qlora":
        spec |= {"quant_type": "nf4", "blocksize": r.choice([32, 64, 64, 128, 256]), "double_quant": r.random() < 0.5}
    if method == "adalora":
        spec |= adaptive(r, of)
    return spec, of


def merge(r: Random) -> tuple[Spec, Spec]:
    of = base(r)
    spec = {k: v for k, v in of.items() if k != "batch"} | {"method": "lora", "seed": any_seed(r), "batch": r.randint(1, 4)}
    return {**spec, **low_rank(r, of), "lora_B_std": decade(r, -3, -1)}, of


def quantization(r: Random) -> Spec:
    cases = []
    for i in range(12):
        shape = r.choice([[r.randint(1, 700)], [r.randint(1, 60), r.randint(1, 60)], [r.randint(1, 40), 48],
                          [r.randint(1, 9), r.randint(1, 9), r.randint(1, 40)], [r.randint(1, 300), 64]])
        what = r.choice(["plain", "plain", "rows", "blanks", "zeros"])
        dtype = r.choice(["float32", "float32", "float32", "bfloat16", "float16"])
        scale = decade(r, -3, 2) if dtype == "float16" else decade(r, -12, 12)
        cases.append({"name": f"case{i}", "shape": shape, "nested": r.random() < 0.5, "dtype": dtype, "scale": scale,
                      "what": what, "blocksize": r.choice([32, 64, 64, 128, 256, 512, 1024, 2048, 4096])})
    return {"seed": any_seed(r), "cases": cases}


def preprocess(r: Random) -> Spec:
    sizes = [(1, 1), (1, r.randint(2, 90)), (r.randint(2, 90), 1), (r.randint(150, 400), r.randint(2, 12)),
             (r.randint(2, 12), r.randint(150, 400)), *[(r.randint(2, 120), r.randint(2, 120)) for _ in range(5)]]
    pictures = {f"p{i}": (w, h, any_seed(r)) for i, (w, h) in enumerate(r.sample(sizes, 4))}
    timm = {f"timm{i}": {"interpolation": r.choice(["bilinear", "bicubic", "bicubic", "nearest", "lanczos"]),
                         "crop_pct": r.choice([0.875, 0.9, 0.95, 0.96, 1.0, round(r.uniform(0.5, 1.0), 3)]),
                         "crop_mode": "center", "mean": [round(r.uniform(0, 1), 3) for _ in range(3)],
                         "std": [round(r.uniform(0.1, 1), 3) for _ in range(3)]} for i in range(3)}
    return {"size": r.randint(4, 48), "pictures": pictures, "timm": timm,
            "resized": [(r.randint(1, 50), r.randint(1, 50)) for _ in range(2)]}
