"""Fine-tuning steps as people take them in Python: timm's model, peft's adapters, torch's optimiser.

    python steps.py '{"backbone": "vit_small_patch16_224", "method": {"name": "full"}, ...}'

The argument is a row of the benchmark as JSON (tests/src/bench/python.rs writes it). Images are random, so that data
takes no time. After imports and a first operation the resident memory is noted: the baseline. Then each number on
standard input asks for that many timed steps, and is answered by one line of JSON.
"""

import json
import logging
import sys
import time

logging.disable(logging.WARNING)  # imports warn of kernels and tools that are not needed here

import peft  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402

WARM_UP_STEPS = 2


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
        modules_to_save=["head"],
    )
    return peft.get_peft_model(model, config)


def bitfit(model, _method):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith(".bias") or name.startswith("head.")
    return model


METHODS = {"full": full, "lora": lora, "bitfit": bitfit}


def prepare(row):
    """A function that takes one step and returns its loss; and the number of parameters that it trains."""
    model = timm.create_model(row["backbone"], pretrained=False, num_classes=row["classes"], img_size=row["image_size"])
    if row["checkpointing"] == "static":
        model.set_grad_checkpointing()
    model = METHODS[row["method"]["name"]](model, row["method"]).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=row["learning_rate"], weight_decay=row["weight_decay"])
    images = torch.randn(row["batch"], 3, row["image_size"], row["image_size"])
    labels = torch.randint(row["classes"], (row["batch"],))

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
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
    baseline = resident("VmRSS")
    step, trainable = prepare(row)
    for _ in range(WARM_UP_STEPS):
        step()
    versions = {module.__name__: module.__version__ for module in (torch, timm, peft)}
    say(baseline=baseline, trainable=trainable, python=sys.version.split()[0], versions=versions)
    for line in sys.stdin:
        seconds = [timed(step) for _ in range(int(line))]
        say(seconds=seconds, peak=resident("VmHWM"))


if __name__ == "__main__":
    main()
