"""Prompts of models that read an image and a text, and the tokens that such a model goes on with."""
import torch
from torch import Tensor
from transformers import PreTrainedModel

from folder import Unsteady, generator


def words(seed: int, count: int, vocabulary: int, *but: int) -> list[int]:
    """Ids of a text, none of `but`."""
    usable = torch.tensor([i for i in range(vocabulary) if i not in but])
    return usable[torch.randint(0, len(usable), (count,), generator=generator(seed))].tolist()


def row(ids: list[int]) -> Tensor:
    return torch.tensor([ids])


def greedy(model: PreTrainedModel, count: int, place: int | None = None, **inputs: Tensor) -> list[int]:
    """The most likely next token, `count` times, behind tokens that end a text, too.

    Raises `Unsteady` where `place` is among them, which stands for an image: what is behind it cannot be asked for at once.
    """
    model.generation_config.eos_token_id = None
    # What fills up behind an end is not needed, but asked for.
    model.generation_config.pad_token_id = 0
    found = model.generate(**inputs, max_new_tokens=count, do_sample=False)[0, -count:].tolist()
    if place in found:
        raise Unsteady("an image's place is among the new tokens")
    return found
