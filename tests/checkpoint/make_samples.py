"""Writes the checkpoints that the tests of common/checkpoint read, and expected.json beside them.

    python -m venv VENV && VENV/bin/pip install torch==2.11.0 numpy
    VENV/bin/python tests/checkpoint/make_samples.py common/checkpoint/tests/samples

Everything is small and seeded; the expected values are what torch itself holds when it writes.
"""

import argparse
import collections
import json
import pathlib
import sys
import zipfile

import numpy
import torch

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def expected(tensors):
    """Type, shape and numbers in order, as hexadecimal."""
    out = {}
    for name, tensor in tensors.items():
        numbers = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
        raw = bytes(numbers.view(torch.uint8).tolist()) if numbers.numel() else b""
        out[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "hex": raw.hex()}
    return out


def kinds():
    """One tensor of each type of numbers, a single number, and none."""
    out = collections.OrderedDict()
    for dtype, name in NAMES.items():
        out[f"kind.{name}"] = (torch.randn(2, 3) * 50).abs().to(dtype)
    out["single"] = torch.tensor(-7)
    out["empty"] = torch.zeros(0, 4)
    return out


def views():
    """Tensors whose numbers are not one after the other, or are others' too."""
    base = torch.randn(4, 6)
    half = torch.randn(3, 2, 5).bfloat16()
    return {
        "base": base,
        "transposed": base.t(),
        "row": base[2],
        "column": base[:, 3],
        "block": base[1:3, 2:5],
        "steps": base[::2, ::3],
        "expanded": torch.randn(3, 1).expand(3, 4),
        "permuted": half.permute(2, 0, 1),
        "last": half[2, :, 4:],
    }


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(3, 4)
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.proj(x)).sum()


def trained():
    """A network and its optimiser after a step."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    net(torch.randn(5, 3)).backward()
    optimizer.step()
    return net, optimizer


class Marked(torch.Tensor):
    """A class of tensors of the script's own, which no reader knows."""


def main(folder):
    torch.manual_seed(7)
    told = {}

    def save(name, value, tensors, under=None, skipped=(), **options):
        torch.save(value, folder / name, **options)
        told[name] = {"under": under, "skipped": sorted(skipped), "tensors": expected(tensors)}

    legacy = {"_use_new_zipfile_serialization": False}
    each = kinds()
    save("kinds.pth", each, each)
    save("kinds-legacy.pth", each, each, **legacy)
    shared = views()
    save("views.pth", shared, shared)
    save("views-legacy.pth", shared, shared, **legacy)
    save("views-protocol4.pth", shared, shared, pickle_protocol=4)
    save("views-protocol5-legacy.pth", shared, shared, pickle_protocol=5, **legacy)

    net, optimizer = trained()
    weights = net.state_dict()
    whole = {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"base": numpy.float64(0.01), "seen": {1, 2}, "state": b"\x00\xff\x80"},
        "epoch": 299,
        "args": argparse.Namespace(model="vim_small", lr=5e-4, distributed=True, device=torch.device("cuda")),
    }
    beside = ["optimizer", "lr_scheduler", "epoch", "args"]
    save("trained.pth", whole, weights, "model", beside)
    save("trained-legacy.pth", whole, weights, "model", beside, **legacy)
    parallel = collections.OrderedDict(("module." + name, tensor) for name, tensor in weights.items())
    save("parallel.pth.tar", {"epoch": 310, "arch": "m", "state_dict": parallel}, weights, "state_dict", ["epoch", "arch"])
    flat = {name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in weights.items()}
    flat["proj.weight"].note = "kept with the parameter"
    save("flat.bin", flat, weights)
    odd = {
        "a": {"b": {"c": torch.arange(3)}, 4: torch.ones(1)},
        "complex": torch.zeros(2, dtype=torch.complex64),
        "sparse": torch.eye(2).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "marked": torch.arange(2.0).as_subclass(Marked),
        "steps": 12,
    }
    plain = {"a.b.c": odd["a"]["b"]["c"], "a.4": odd["a"][4], "marked": torch.arange(2.0)}
    save("odd.pth", odd, plain, None, ["complex", "quantised", "sparse", "steps"])

    # Packed again, as archivers do it.
    with zipfile.ZipFile(folder / "trained.pth") as old, zipfile.ZipFile(folder / "packed.pth", "w") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info), zipfile.ZIP_DEFLATED)
    told["packed.pth"] = told["trained.pth"]

    (folder / "expected.json").write_text(json.dumps(told, indent=0, sort_keys=True) + "\n")
    print(f"{len(told)} checkpoints, {sum(f.stat().st_size for f in folder.iterdir())} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
