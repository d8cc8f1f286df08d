"""Values that follow from a tensor's name, so that references of full size store no weights.

Element i (from 0, row-major) of the tensor NAME is made of u, 24 bits of the i-th number that splitmix64 (Steele et al.,
OOPSLA 2014) gives when it starts at the FNV-1a hash of NAME, and of t = 2u - 1, in f64, rounded once to f32.
"""
import math

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def fnv(name: str) -> int:
    """FNV-1a, 64 bits."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % (1 << 64)
    return state


def uniform(name: str, n: int) -> np.ndarray:
    """`n` numbers in [0, 1)."""
    z = np.uint64(fnv(name)) + np.arange(1, n + 1, dtype=np.uint64) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)) / float(1 << 24)


def value(name: str, shape: tuple[int, ...]) -> Tensor:
    """The first rule that fits, of those that timm's ViT and TinyViT need."""
    u = uniform(name, math.prod(shape))
    t = 2 * u - 1
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        v = 0.5 + u
    elif leaf == "running_mean" or (leaf == "bias" and len(shape) == 1):
        v = 0.1 * t
    elif leaf == "weight" and len(shape) == 1:
        v = 1 + 0.2 * t
    elif leaf == "attention_biases" or "cls_token" in name or "pos_embed" in name:
        v = 0.3 * t
    else:
        v = t * math.sqrt(3 / math.prod(shape[1:]))
    return torch.from_numpy(v.astype(np.float32)).reshape(shape)


@torch.no_grad()
def fill(model: nn.Module, prefix: str) -> None:
    """Gives every tensor of the model the values of `prefix` + its name; counts of batches are zero."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(value(prefix + name, tuple(tensor.shape)))
        else:
            tensor.zero_()


def images(prefix: str, batch: int, size: int) -> Tensor:
    """Images (batch, 3, size, size): 1.5 t of `prefix` + "input"."""
    t = 2 * uniform(prefix + "input", batch * 3 * size * size) - 1
    return torch.from_numpy((1.5 * t).astype(np.float32)).reshape(batch, 3, size, size)
