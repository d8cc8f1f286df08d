"""Adapters to PEFT and back: do the files mean the same on both sides?

    python tests/references/adapters.py FLEET OUT

FLEET is the folder of our programs, OUT an empty folder. A campaign of ours trains adapters and keeps them, and its merged
weights; PEFT loads each adapter onto the weights that it began with, and must compute what the merged weights do in plain
timm. Then PEFT writes adapters, `fleet-agent merge` merges them, and the result must compute what PEFT does.
"""
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peft
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

CLASSES, SIDE = 8, 64
TOLERANCE = 1e-5  # absolute, of logits in f32
CAMPAIGN = """
name = "adapters"
seeds = [1]
[matrix]
method = ["lora", "adalora", "qlora"]
backbone = ["vit_micro", "tiny_vit_5m_224"]
dataset = "textures"
[train]
steps = 8
batch = 6
image_size = 64
learning_rate = 5e-3
[evaluate]
limit = 8
[method.lora]
rslora = true
[method.adalora]
init_rank = 6
target_rank = 3
tinit = 1
tfinal = 2
delta_t = 1
[output]
weights = true
adapter = true
"""


def model(backbone: str) -> torch.nn.Module:
    torch.manual_seed(3)
    if backbone == "vit_micro":
        return VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=128, depth=6, num_heads=4, num_classes=CLASSES)
    return timm.create_model(backbone, num_classes=CLASSES, drop_path_rate=0.0)


def loaded(backbone: str, file: Path) -> torch.nn.Module:
    result = model(backbone)
    result.load_state_dict(load_file(file))
    return result.eval()


@torch.no_grad()
def logits(of: torch.nn.Module) -> torch.Tensor:
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    return of(images)


def check(name: str, found: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = float((found - expected).abs().max())
    verdict = "passed" if difference <= TOLERANCE else "FAILED"
    print(f"{verdict}      {name}: logits differ by {difference:.2e} at most ({TOLERANCE:.0e} allowed)")
    return difference <= TOLERANCE


def dequantized(base: Path, merged: Path, adapter: Path, out: Path) -> Path:
    """QLoRA's own base: the weights as their four bits mean them, which is the merged ones less the update."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    parts, weights = load_file(adapter / "adapter_model.safetensors"), load_file(base)
    for layer in config["target_modules"]:
        a, b = (parts[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
        weights[f"{layer}.weight"] = load_file(merged)[f"{layer}.weight"] - b @ a * config["lora_alpha"] / config["r"]
    for name, value in load_file(merged).items():
        if name.endswith(".weight") and value.ndim == 2 and "lora" not in name:
            layer = name.removesuffix(".weight")
            weights[name] = weights[name] if layer in config["target_modules"] else value
    save_file(weights, out)
    return out


def ours_in_peft(fleet: Path, out: Path) -> Iterator[bool]:
    (out / "campaign.toml").write_text(CAMPAIGN)
    (out / "weights").mkdir()
    for backbone in ("vit_micro", "tiny_vit_5m_224"):
        save_file(model(backbone).state_dict(), out / "weights" / f"{backbone}.safetensors")
    run = [fleet / "fleet", "data", "synth", "--data", out / "data", "--per-class", "9", "--size", "64"]
    subprocess.run(run, check=True, capture_output=True)
    local = [fleet / "fleet", "local", out / "campaign.toml", "--data", out / "data", "--weights", out / "weights"]
    subprocess.run([*local, "--state", out / "state", "--json"], check=True, capture_output=True)
    for folder in sorted((out / "state").glob("agent/artifacts/*")):
        adapter, merged = folder / "adapter", folder / "weights.safetensors"
        config = json.loads((adapter / "adapter_config.json").read_text())
        backbone = config["base_model_name_or_path"]
        base = out / "weights" / f"{backbone}.safetensors"
        # LoRA here is with rank stabilisation, so that without it means QLoRA.
        packed = config["peft_type"] == "LORA" and not config["use_rslora"]
        if packed:
            base = dequantized(base, merged, adapter, out / "packed.safetensors")
        name = "qlora" if packed else config["peft_type"].lower()
        in_peft = peft.PeftModel.from_pretrained(loaded(backbone, base), str(adapter)).eval()
        yield check(f"our {name} on {backbone}, in PEFT", logits(in_peft), logits(loaded(backbone, merged)))


def pefts_here(fleet: Path, out: Path) -> Iterator[bool]:
    targets = ["qkv", "attn.proj", "fc1", "fc2"]
    shared = dict(target_modules=targets, lora_alpha=12)
    configs = {
        "lora": peft.LoraConfig(r=4, **shared), "rslora": peft.LoraConfig(r=4, use_rslora=True, **shared),
        "adalora": peft.AdaLoraConfig(init_r=5, target_r=3, tinit=1, tfinal=1, total_step=9, **shared)}
    for backbone, head in (("vit_micro", "head"), ("tiny_vit_5m_224", "head.fc")):
        base = out / "weights" / f"{backbone}.safetensors"
        for name, config in configs.items():
            config.modules_to_save = [head]
            theirs = peft.get_peft_model(loaded(backbone, base), config).eval()
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for parameter in theirs.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
            folder, merged = out / f"peft-{backbone}-{name}", out / f"merged-{backbone}-{name}.safetensors"
            theirs.save_pretrained(str(folder))
            merge = [fleet / "fleet-agent", "merge", folder, "--base", base, "--out", merged]
            subprocess.run(merge, check=True, capture_output=True)
            yield check(f"PEFT's {name} on {backbone}, merged here", logits(loaded(backbone, merged)), logits(theirs))


def main() -> None:
    fleet, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if not all([*ours_in_peft(fleet, out), *pefts_here(fleet, out)]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
