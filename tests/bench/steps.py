"""Fine-tuning steps as people take them in Python: timm's model, peft's adapters, torch's optimiser.

    python steps.py '{"backbone": "vit_small_patch16_224", "method": {"name": "full"}, ...}'

The argument is a row of the benchmark as JSON (tests/src/bench/python.rs writes it). Images are random, so that data
takes no time. After imports and a first operation the resident memory is noted: the baseline. Then each number on
standard input asks for that many timed steps, and is answered by one line of JSON. On a GPU the peak is that of
tensors, as torch counts it.
"""

import json
import logging
import sys
import time
from pathlib import Path

logging.disable(logging.WARNING)  # imports warn of kernels and tools that are not needed here

import peft  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "references"))
import mamba  # noqa: E402


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process, in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise SystemExit(f"steps.py: /proc/self/status has no {field}: this needs Linux")


def full(model, _method):
    return model


def lora(model, method):
    config = peft.LoraConfig(
        r=method["rank"],
        lora_alpha=method["alpha"],
        lora_dropout=method["dropout"],
        target_modules=method["targets"],
        modules_to_save=[head(model)],
    )
    return peft.get_peft_model(model, config)


def adalora(model, method):
    config = peft.AdaLoraConfig(
        init_r=method["init_rank"],
        target_r=method["target_rank"],
        lora_alpha=method["alpha"],
        lora_dropout=method["dropout"],
        target_modules=method["targets"],
        modules_to_save=[head(model)],
        tinit=method["tinit"],
        tfinal=method["tfinal"],
        deltaT=method["delta_t"],
        beta1=method["beta1"],
        beta2=method["beta2"],
        orth_reg_weight=method["orthogonal_weight"],
        total_step=1_000_000,
    )
    return peft.get_peft_model(model, config)


def qlora(model, method):
    """Linear layers but the head in NF4, as bitsandbytes keeps them, then LoRA."""
    import bitsandbytes

    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != head(model)]
    for name in linear:
        layer = model.get_submodule(name)
        packed = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            compute_dtype=torch.float32,
            compress_statistics=method["double_quantization"],
            quant_type="nf4",
        )
        packed.weight = bitsandbytes.nn.Params4bit(
            layer.weight.detach(),
            requires_grad=False,
            compress_statistics=method["double_quantization"],
            quant_type="nf4",
            blocksize=method["block"],
        )
        packed.bias = torch.nn.Parameter(layer.bias.detach(), requires_grad=False)
        model.set_submodule(name, packed)
    model.is_loaded_in_4bit = True
    return lora(model, method)


def head(model):
    return "head.fc" if hasattr(model.head, "fc") else "head"


def orthogonal(model, weight):
    """The term that PEFT adds to the loss of models with a task type only."""
    grams = [
        p @ p.T if "lora_A" in name else p.T @ p
        for name, p in model.named_parameters()
        if "lora_A" in name or "lora_B" in name
    ]
    distances = [torch.norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
    return weight * sum(distances) / len(distances)


def bitfit(model, _method):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith(".bias") or name.startswith(head(model) + ".")
    return model


METHODS = {"full": full, "lora": lora, "adalora": adalora, "qlora": qlora, "bitfit": bitfit}


def create(row):
    static = row["checkpointing"] == "static"
    if row["backbone"].startswith(("vim", "mamba")):
        return mamba.create(row["backbone"], row["classes"], row["image_size"], scan=row["scan"], checkpointing=static)
    size = {"img_size": row["image_size"]} if row["backbone"].startswith("vit") else {}
    model = timm.create_model(row["backbone"], pretrained=False, num_classes=row["classes"], **size)
    if static:
        model.set_grad_checkpointing()
    return model


def prepare(row):
    """A function that takes one step and returns its loss; and the number of parameters that it trains."""
    model = create(row)
    device = torch.device(row["device"])
    model = METHODS[row["method"]["name"]](model, row["method"]).train().to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=row["learning_rate"], weight_decay=row["weight_decay"])
    images = torch.randn(row["batch"], 3, row["image_size"], row["image_size"], device=device)
    labels = torch.randint(row["classes"], (row["batch"],), device=device)

    method, taken = row["method"], 0

    def step() -> float:
        nonlocal taken
        taken += 1
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        if method["name"] == "adalora":
            loss = loss + orthogonal(model, method["orthogonal_weight"])
        loss.backward()
        optimizer.step()
        if method["name"] == "adalora":
            model.base_model.update_and_allocate(taken)
        return loss.item()

    return step, sum(p.numel() for p in trained)


def timed(step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def say(**values):
    print(json.dumps(values), flush=True)


def main():
    row = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(row["threads"])
    torch.ones(1).add(1)
    with open("/proc/self/clear_refs", "w") as peak:  # the imports' own peak is none of the model's
        peak.write("5")
    baseline = 0 if row["device"] == "cuda" else resident("VmRSS")
    step, trainable = prepare(row)
    for _ in range(row["warm_up_steps"]):
        step()
    versions = {module.__name__: module.__version__ for module in (torch, timm, peft)}
    say(baseline=baseline, trainable=trainable, python=sys.version.split()[0], versions=versions)
    for line in sys.stdin:
        seconds = [timed(step) for _ in range(int(line))]
        on_cuda = row["device"] == "cuda"
        say(seconds=seconds, peak=torch.cuda.max_memory_allocated() if on_cuda else resident("VmHWM"))


if __name__ == "__main__":
    main()
