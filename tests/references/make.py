"""Makes reference folders for `fleet-agent verify` from the packages that we want to agree with.

    python tests/references/make.py --out DIR --seed N [--kind K ...] [--random M]

Without --random these are the configurations of tests/fixtures (with their very values where N is 0); with it, M drawn
from N for each kind.
"""
import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

import drawn
import drawn_frozen
import fixed
import fixed_frozen
from backbones import backbone, full_size
from contrastive import contrastive
from features import features
from folder import Unsteady
from mobilevlm import mobilevlm
from nf4 import quantization
from paligemma import paligemma
from pictures import preprocess
from smolvlm import smolvlm
from tokenizer import clip_tokenizer, sentence_piece
from traces import merge, training_trace

Spec = dict[str, Any]
Writer = Callable[[Path, Spec], None]
METHODS = ("full", "bitfit", "lora", "qlora", "adalora")
ALONE: dict[str, tuple[Writer, Callable[[Random], Spec]]] = {
    "vit": (backbone, drawn.vit), "tiny_vit": (backbone, drawn.tiny_vit), "vim": (backbone, drawn.vim),
    "mambavision": (backbone, drawn.mambavision), "full_size": (full_size, drawn.full_size),
    "quantization": (quantization, drawn.quantization), "preprocess": (preprocess, drawn.preprocess),
    "dinov2_hf": (features, drawn_frozen.dinov2_hf), "dinov2_timm": (features, drawn_frozen.dinov2_timm),
    "clip_vision": (features, drawn_frozen.clip_vision), "open_clip": (contrastive, drawn_frozen.open_clip),
    "siglip": (contrastive, drawn_frozen.siglip), "smolvlm": (smolvlm, drawn_frozen.smolvlm),
    "paligemma": (paligemma, drawn_frozen.paligemma),
    "clip_tokenizer": (clip_tokenizer, drawn_frozen.clip_tokenizer),
    "sentence_piece": (sentence_piece, drawn_frozen.sentence_piece),
    **{m: (mobilevlm, partial(drawn_frozen.mobilevlm, architecture=m)) for m in ("mobilevlm", "mobilevlm_v2")}}
"""Kinds that need no other folder: what writes one, what draws one."""
BASED: dict[str, tuple[Writer, Callable[[Random], tuple[Spec, Spec]]]] = {
    **{m: (training_trace, partial(drawn.trace, method=m)) for m in METHODS}, "merge": (merge, drawn.merge)}
"""Kinds on the weights of a backbone's folder."""
KINDS = (*ALONE, *BASED)
ATTEMPTS = 40


def draw(kind: str, out: Path, name: str, random: Random) -> None:
    """One random folder, and the one that it is based on."""
    if kind in ALONE:
        write, choose = ALONE[kind]
        return write(out / name, choose(random))
    write, choose = BASED[kind]
    spec, of = choose(random)
    backbone(out / f"{name}_base", of)
    write(out / name, {**spec, "base_fixture": f"{name}_base"})


def random_folders(kind: str, out: Path, seed: int, count: int) -> None:
    """`count` folders whose results do not depend on rounding; others are drawn again, and said."""
    random = Random(f"{seed} {kind}")
    for i in range(count):
        for _ in range(ATTEMPTS):
            try:
                draw(kind, out, f"{kind}_{i}", random)
                break
            except Unsteady as why:
                print(f"{kind}_{i}: drawn again: {why}")
        else:
            sys.exit(f"{kind}_{i}: none of {ATTEMPTS} configurations gave steady results: look at drawn.py")


def fixed_folders(kinds: list[str], out: Path, seed: int) -> None:
    shift = seed * fixed.APART
    for name, spec in fixed.backbones(shift).items():
        if spec["architecture"] in kinds or set(kinds) & set(BASED):
            backbone(out / name, spec)
    for name, spec in fixed.traces(shift).items():
        if spec["method"] in kinds:
            training_trace(out / name, spec)
    others = {"full_size": (full_size, fixed.full_sizes), "merge": (merge, fixed.merges),
              "quantization": (quantization, fixed.quantizations), "preprocess": (preprocess, fixed.preprocesses)}
    for kind, (write, specs) in others.items():
        for name, spec in specs(shift).items() if kind in kinds else ():
            write(out / name, spec)
    for name, spec in fixed_frozen.folders(shift).items():
        if spec["architecture"] in kinds:
            ALONE[spec["architecture"]][0](out / name, spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make the folders in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; may be repeated")
    parser.add_argument("--random", type=int, metavar="M", help="M random configurations for each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    kinds = args.kind or list(KINDS)
    if args.random is None:
        return fixed_folders(kinds, args.out, args.seed)
    for kind in kinds:
        random_folders(kind, args.out, args.seed, args.random)


if __name__ == "__main__":
    main()
