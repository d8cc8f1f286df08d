"""Shows how far apart two folders of reference folders are: `python tests/references/compare.py DIR OTHER`.

Tensors that only one of them holds are counted; every tensor of a name that both hold must have the same shape.
"""
import sys
from pathlib import Path

from safetensors.torch import load_file

from folder import Tensors, apart


def tensors(folder: Path) -> Tensors:
    return {f"{file.stem}/{k}": t for file in sorted(folder.glob("*.safetensors")) for k, t in load_file(file).items()}


def line(name: str, mine: Tensors, other: Tensors) -> str:
    shared = [k for k in mine if k in other]
    distance, worst = max((apart(mine[k], other[k]), k) for k in shared)
    return (f"{name:28} {len(shared):4} tensors in both, {len(mine) - len(shared):3} and {len(other) - len(shared):3} in one; "
            f"furthest apart {distance:.1e} ({worst})")


def main(dir: Path, other: Path) -> None:
    for folder in sorted(p for p in dir.iterdir() if (other / p.name).is_dir()):
        print(line(folder.name, tensors(folder), tensors(other / folder.name)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
