"""Kind `quantization`: bitsandbytes' NF4 in its cases, and its decoding written out.

bitsandbytes 0.50.2's decoding on a CPU is wrong for some widths that are no multiples of the block size, so `decode` says
what the format means: blocks run over the flattened tensor, the first of two values is in the high half of a byte.
"""
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.functional import QuantState
from torch import Tensor

from folder import Tensors, generator, write

Spec = dict[str, Any]


def spread(scales: Tensor, block: int, n: int) -> Tensor:
    """Each block's scale at each of its values."""
    return scales.repeat_interleave(block)[:n]


def scales(state: QuantState) -> Tensor:
    """The absolute maxima of the blocks; with double quantisation, as they come out of it."""
    if not state.nested:
        return state.absmax
    outer = state.state2
    n = state.absmax.numel()
    return outer.code[state.absmax.long()] * spread(outer.absmax, outer.blocksize, n) + state.offset


def decode(packed: Tensor, state: QuantState) -> Tensor:
    n = state.shape.numel()
    halves = torch.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], 1).reshape(-1)[:n].long()
    return (state.code[halves] * spread(scales(state), state.blocksize, n)).reshape(state.shape).to(state.dtype)


def case(name: str, values: Tensor, block: int, nested: bool) -> tuple[Spec, Tensors]:
    packed, state = bnb.quantize_4bit(values, blocksize=block, compress_statistics=nested, quant_type="nf4")
    parts = {"input": values, "packed": packed.reshape(-1), "dequant": decode(packed, state)}
    if nested:
        parts |= {"absmax_u8": state.absmax, "nested_absmax": state.state2.absmax,
                  "offset": state.offset.reshape(1).float()}
    else:
        parts["absmax"] = state.absmax
    spec = {"name": name, "shape": list(values.shape), "dtype": str(values.dtype), "nested": nested, "blocksize": block,
            "nested_blocksize": state.state2.blocksize if nested else None}
    return spec, {f"{name}.{part}": t for part, t in parts.items()}


def midpoints() -> Tensor:
    """One block with the values half-way between neighbouring codes: which side wins is a convention."""
    code = bnb.get_4bit_type("nf4", device="cpu").double()
    out = torch.zeros(1, 64)
    out[0, 0], out[0, 1:16] = 1.0, ((code[:-1] + code[1:]) / 2).float()
    return out


def values(g: torch.Generator, shape: list[int], scale: float, what: str) -> Tensor:
    """Values to be packed. `rows` have scales of their own, `blanks` are blocks of zeros and constants among others."""
    out = torch.randn(shape, generator=g) * scale
    if what == "rows":
        out *= torch.rand([shape[0]] + [1] * (len(shape) - 1), generator=g)
    elif what == "blanks":
        flat = out.reshape(-1)
        flat[64:128], flat[128:192] = 0.0, 0.5 * scale
    elif what == "zeros":
        out.zero_()
    return out


def quantization(folder: Path, spec: Spec) -> None:
    cases, io, g = [], {}, generator(spec["seed"])
    for c in spec["cases"]:
        t = io[f"{c['like']}.input"] if "like" in c else values(g, c["shape"], c["scale"], c["what"])
        t = t.to(getattr(torch, c["dtype"]))
        told, tensors = case(c["name"], t, c["blocksize"], c["nested"])
        cases.append(told)
        io |= tensors
    told, tensors = case("midpoints", midpoints(), 64, False)
    _, state = bnb.quantize_4bit(torch.ones(64), blocksize=64, compress_statistics=True, quant_type="nf4")
    io |= {**tensors, "nf4_code": state.code, "dynamic_code": state.state2.code}
    config = {"kind": "quantization", "architecture": "none", "quant_type": "nf4", "seed": spec["seed"],
              "cases": [*cases, told], "reference": "bitsandbytes.functional.quantize_4bit"}
    write(folder, config, io)
