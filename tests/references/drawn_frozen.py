"""Configurations of models that are not trained, drawn at random; see `drawn.py`."""
from math import lcm
from random import Random
from typing import Any

from drawn import any_seed

Spec = dict[str, Any]
EPS = [1e-6, 1e-5, 1e-3]


def size(r: Random, patch: int, most: int) -> int:
    """Side of an image of up to `most` patches, and now and then of some pixels that no patch takes."""
    return patch * r.randint(1, most) + (r.randrange(patch) if r.random() < 0.3 else 0)


def without_some(r: Random, spec: Spec, *keys: str) -> Spec:
    """Publishers leave out what is a class's default, and so is now and then what is left out here."""
    return {k: v for k, v in spec.items() if k not in keys or r.random() < 0.7}


def encoder(r: Random) -> Spec:
    """An encoder of images by transformers' names."""
    patch, heads = r.choice([1, 2, 4, 7, 14, 16]), r.choice([1, 1, 2, 3, 5])
    width = heads * r.randint(5, 16)
    spec = {"hidden_size": width, "num_hidden_layers": r.randint(1, 4), "num_attention_heads": heads,
            "intermediate_size": r.randint(4, 5 * width), "image_size": size(r, patch, 6), "patch_size": patch}
    return spec | ({"layer_norm_eps": r.choice(EPS)} if r.random() < 0.7 else {})


def dinov2_hf(r: Random) -> Spec:
    """Grids of another side than the table's, of as many patches as it but no square, and images with pixels left over."""
    spec = encoder(r)
    del spec["intermediate_size"]
    patch = spec["patch_size"]
    side = spec["image_size"] // patch
    grids = [(side, side), (2 * side, max(1, side // 2)), (r.randint(1, 9), r.randint(1, 9)), (1, 1)]
    sizes = {(h * patch + r.randrange(patch), w * patch + r.randrange(patch)) if r.random() < 0.3 else (h * patch, w * patch)
             for h, w in grids}
    return {"architecture": "dinov2_hf", **spec, "mlp_ratio": r.choice([1, 2, 3, 4, 5]), "batch": r.randint(1, 3),
            "sizes": sorted(sizes), "seed": any_seed(r)}


def dinov2_timm(r: Random) -> Spec:
    patch, heads = r.choice([1, 2, 4, 7, 14]), r.choice([1, 1, 2, 3, 5])
    spec = {"architecture": "dinov2_timm", "img_size": patch * r.randint(1, 6), "patch_size": patch,
            "embed_dim": heads * r.randint(5, 16), "depth": r.randint(1, 4), "num_heads": heads, "num_classes": 0,
            "init_values": r.choice([1e-5, 0.1, 1.0]), "batch": r.randint(1, 3), "seed": any_seed(r)}
    spec |= {"mlp_ratio": r.choice([0.5, 1.0, 2.5, 3.3, 4.0])} if r.random() < 0.7 else {}
    spec |= {"norm_eps": r.choice(EPS)} if r.random() < 0.7 else {}
    return spec | ({"grid": (r.randint(1, 9), r.randint(1, 9))} if r.random() < 0.5 else {})


def clip_vision(r: Random) -> Spec:
    spec = {"architecture": "clip_vision", **encoder(r), "batch": r.randint(1, 3), "seed": any_seed(r)}
    return spec | ({"hidden_act": r.choice(["quick_gelu", "gelu", "gelu_pytorch_tanh"])} if r.random() < 0.8 else {})


def open_clip(r: Random) -> Spec:
    patch, head, heads = r.choice([1, 2, 4, 8, 14, 32]), r.randint(5, 20), r.choice([1, 2, 3, 5])
    vision = {"image_size": size(r, patch, 5), "patch_size": patch, "width": heads * head, "head_width": head,
              "layers": r.randint(1, 3)}
    heads = r.choice([1, 2, 3, 5])
    text = {"context_length": r.randint(3, 80), "vocab_size": r.randint(4, 300), "width": heads * r.randint(5, 16),
            "heads": heads, "layers": r.randint(1, 3)}
    for tower in (vision, text):
        tower |= {"mlp_ratio": r.choice([0.5, 1.0, 2.5, 3.3, 4.0])} if r.random() < 0.5 else {}
        tower |= {"norm_kwargs": {"eps": r.choice(EPS)}} if r.random() < 0.5 else {}
    return {"architecture": "open_clip", "embed_dim": r.choice([1, 3, 16, 40]), "vision_cfg": vision, "text_cfg": text,
            "quick_gelu": r.random() < 0.5, "classes": r.randint(1, 4), "templates": r.randint(1, 4),
            "batch": r.randint(1, 3), "seed": any_seed(r)}


def siglip(r: Random) -> Spec:
    """Two encoders of sizes of their own; embeddings have the width of the images'."""
    vision, heads = encoder(r), r.choice([1, 2, 3, 5])
    width = heads * r.randint(5, 16)
    text = {"hidden_size": width, "num_hidden_layers": r.randint(1, 3), "num_attention_heads": heads,
            "intermediate_size": r.randint(4, 5 * width), "vocab_size": r.randint(4, 300),
            "max_position_embeddings": r.randint(1, 70), "projection_size": vision["hidden_size"]}
    text |= {"layer_norm_eps": r.choice(EPS)} if r.random() < 0.7 else {}
    return {"architecture": "siglip", "vision_config": vision, "text_config": text, "texts": r.randint(1, 5),
            "batch": r.randint(1, 3), "seed": any_seed(r)}


def llama(r: Random, widths: int = 1) -> Spec:
    """A decoder of which more can be left out: keys for each query, and heads that share the width."""
    spec = decoder(r, widths)
    fewer = without_some(r, spec, "num_key_value_heads", "head_dim")
    head = spec["hidden_size"] // spec["num_attention_heads"]
    return fewer if "head_dim" in fewer or head % 2 == 0 else spec


def decoder(r: Random, widths: int = 1) -> Spec:
    """A decoder by transformers' names, of a width that is a multiple of `widths`, with any number of queries to a key.

    transformers wants a width that its heads divide, though they need not share it. Where it writes the rotations' base has
    changed with its version 5.
    """
    keys = r.choice([1, 1, 2, 3])
    heads = keys * r.choice([1, 2, 3, 5])
    unit, theta = lcm(widths, heads), r.choice([100.0, 1e4, 1e5, 5e5])
    rotation = {"rope_theta": theta} if r.random() < 0.5 else {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    spec = {"hidden_size": unit * r.randint(-(-12 // unit), max(2, 60 // unit)), "intermediate_size": r.randint(8, 100),
            "num_hidden_layers": r.randint(1, 3), "num_attention_heads": heads, "num_key_value_heads": keys,
            "head_dim": 2 * r.randint(1, 12), "vocab_size": r.randint(8, 300), "max_position_embeddings": 2048,
            "rms_norm_eps": r.choice(EPS), **rotation}
    return without_some(r, spec, "rms_norm_eps", "rope_theta", "rope_parameters")


def smolvlm(r: Random) -> Spec:
    """No more than 18 patches a side: beyond, transformers' rounding gives some sides' patches a neighbour's position."""
    factor = r.choice([1, 2, 3, 4])
    vision = encoder(r)
    vision["image_size"] = vision["patch_size"] * factor * r.randint(1, 2 if factor > 2 else 3)
    text = llama(r)
    shuffle = {"scale_factor": factor} if factor != 2 or r.random() < 0.5 else {}
    return {"architecture": "smolvlm", "vision_config": vision, "text_config": text, **shuffle,
            "image_token_id": r.randrange(text["vocab_size"]), "words": [r.randint(1, 6) for _ in range(r.randint(2, 5))],
            "candidate_lengths": [r.randint(1, 5) for _ in range(r.randint(1, 4))],
            "padded_lengths": [r.randint(1, 9) for _ in range(r.randint(1, 4))], "new_tokens": r.randint(1, 8),
            "seed": any_seed(r)}


def paligemma(r: Random) -> Spec:
    text = decoder(r)
    return {"architecture": "paligemma", "vision_config": encoder(r), "text_config": text,
            "image_token_id": r.randrange(3, text["vocab_size"]), "prompt_tokens": r.randint(1, 9),
            "suffix_tokens": r.randint(1, 6), "new_tokens": r.randint(1, 8), "seed": any_seed(r)}


def mobilevlm(r: Random, architecture: str) -> Spec:
    """The first projector's widths are multiples of 8, as MobileNet makes them."""
    vision = encoder(r) | {"hidden_act": r.choice(["quick_gelu", "quick_gelu", "gelu"])}
    text = llama(r, 8 if architecture == "mobilevlm" else 1)
    return {"architecture": architecture, "vision_config": vision, "text_config": text,
            "words": [r.randint(0, 5), r.randint(1, 8)], "new_tokens": r.randint(1, 8), "seed": any_seed(r)}


def clip_tokenizer(r: Random) -> Spec:
    return {"context_length": r.choice([2, 3, 8, 20, 77, 77, 77]), "texts": 40, "seed": any_seed(r)}


def sentence_piece(r: Random) -> Spec:
    bytes_too = r.random() < 0.5
    trainer = {"model_type": r.choice(["unigram", "bpe"]), "byte_fallback": bytes_too,
               "vocab_size": r.choice([200, 300, 500]) + 256 * bytes_too,
               "normalization_rule_name": r.choice(["identity", "nfkc", "nmt_nfkc", "nmt_nfkc_cf"]),
               "remove_extra_whitespaces": r.random() < 0.5, "add_dummy_prefix": r.random() < 0.7,
               "split_digits": r.random() < 0.5}
    return {"trainer": trainer, "texts": 40, "seed": any_seed(r)}
