"""Models that are not trained, as people run them in Python: transformers' and open_clip's, with random weights.

    python frozen.py '{"row": {"architecture": "dinov2", "config": {...}, "task": "images", "batch": 8}, "threads": 2}'

The argument is a row of agent/worker/benches/frozen/rows.rs as JSON. The model runs once; then each number on standard
input asks for that many timed runs, and is answered by one line of JSON.
"""

import json
import logging
import sys
import time

logging.disable(logging.WARNING)  # imports warn of kernels and tools that are not needed here

import open_clip  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # noqa: E402
from transformers import (  # noqa: E402
    Dinov2Config,
    Dinov2Model,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
)


def pictures(batch, side):
    return torch.rand(batch, 3, side, side)


def words(batch, vocabulary, tokens):
    return torch.randint(vocabulary, (batch, tokens))


def dinov2(row):
    config = Dinov2Config(**row["config"])
    model = Dinov2Model(config).eval()
    images = pictures(row["batch"], config.image_size)
    return model, lambda: model(pixel_values=images).pooler_output


def clip(row):
    config = row["config"]
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    model = CLIP(config["embed_dim"], vision, text).eval()
    if row["task"] == "texts":
        texts = words(row["batch"], text.vocab_size, text.context_length)
        return model, lambda: model.encode_text(texts)
    images = pictures(row["batch"], vision.image_size)
    return model, lambda: model.encode_image(images)


def siglip(row):
    config = SiglipConfig(**row["config"])
    model = SiglipModel(config).eval()
    if row["task"] == "texts":
        text = config.text_config
        texts = words(row["batch"], text.vocab_size, text.max_position_embeddings)
        return model, lambda: model.get_text_features(input_ids=texts)
    images = pictures(row["batch"], config.vision_config.image_size)
    return model, lambda: model.get_image_features(pixel_values=images)


def answer(model, row, image_token, image_tokens, **images):
    """As many tokens as asked for, greedily: no token ends an answer."""
    task = row["task"]["answer"]
    batch, vocabulary = row["batch"], row["config"]["text_config"]["vocab_size"]
    places = torch.full((batch, image_tokens), image_token)
    ids = torch.cat([places, words(batch, vocabulary // 2, task["question"])], 1)
    model.generation_config.eos_token_id = None
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images}

    def run():
        found = model.generate(**inputs, max_new_tokens=task["tokens"], do_sample=False)
        assert found.shape[1] == ids.shape[1] + task["tokens"]

    return model, run


def smolvlm(row):
    config = Idefics3Config(**row["config"])
    model = Idefics3ForConditionalGeneration(config).eval()
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size // config.scale_factor) ** 2
    images = pictures(row["batch"], vision.image_size).unsqueeze(1)
    return answer(model, row, config.image_token_id, tokens, pixel_values=images)


def paligemma(row):
    config = PaliGemmaConfig(**row["config"])
    model = PaliGemmaForConditionalGeneration(config).eval()
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    prompt = tokens + row["task"]["answer"]["question"]
    return answer(
        model,
        row,
        row["config"]["image_token_index"],
        tokens,
        pixel_values=pictures(row["batch"], vision.image_size),
        token_type_ids=torch.zeros(row["batch"], prompt, dtype=torch.long),
    )


MODELS = {"dinov2": dinov2, "open_clip": clip, "siglip": siglip, "smolvlm": smolvlm, "paligemma": paligemma}


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def say(**values):
    print(json.dumps(values), flush=True)


@torch.inference_mode()
def main():
    asked = json.loads(sys.argv[1])
    row = asked["row"]
    torch.manual_seed(0)
    torch.set_num_threads(asked["threads"])
    model, run = MODELS[row["architecture"]](row)
    run()
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, open_clip))
    say(parameters=sum(p.numel() for p in model.parameters()), versions=versions)
    for line in sys.stdin:
        say(seconds=[timed(run) for _ in range(int(line))])


if __name__ == "__main__":
    main()
