"""A small masked diffusion model that writes JSON of what a prompt lists, and the grammar of that JSON.

A prompt names keys with a digit or two; the answer is the object. A rule cannot hold double quotes, so ' stands for
them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from benchmarks._signs import Signs
from fedsim.bench.training import Recipe, train
from fedsim.core import checkpoints, registry, seeding
from fedsim.core.losses import IGNORED
from fedsim.core.types import Batch, Dataset, InputSpec

_KEYS, _DIGITS = "abcdef", "0123456789"
SIGNS = Signs("{}[]':," + _KEYS + _DIGITS + ";.")  # the point ends a text, and the semicolon a prompt
QUESTION_LENGTH, PLACES = 10, 32
_MOST = 3  # keys of an object, which fit
_EXAMPLES, _STEPS, _BATCH = 6000, 450, 32  # trained for longer it makes no mistake that a grammar could mend


def _one_of(signs: str) -> str:
    return " | ".join(f'"{sign}"' for sign in signs)


GRAMMAR = f"""Object = "{{" Members "}}"
Members = Member | Member "," Members
Member = "'" Key "'" ":" Value
Value = Digit | "[" List "]"
List = Digit | Digit "," List
Key = {_one_of(_KEYS)}
Digit = {_one_of(_DIGITS)}"""


def draw(generator: torch.Generator) -> tuple[str, str]:
    """Draw a prompt and its object."""
    count = 1 + int(torch.randint(_MOST, (), generator=generator))
    keys = [_KEYS[place] for place in torch.randperm(len(_KEYS), generator=generator)[:count].tolist()]
    sizes = (1 + torch.randint(2, (count,), generator=generator)).tolist()
    values = [[_DIGITS[digit] for digit in torch.randint(10, (size,), generator=generator).tolist()] for size in sizes]
    pairs = "".join(key + "".join(value) for key, value in zip(keys, values, strict=True))
    members = [f"'{key}':{_shown(value)}" for key, value in zip(keys, values, strict=True)]
    return f"{pairs:.<{QUESTION_LENGTH - 1}};", f"{{{','.join(members)}}}"


def _shown(value: list[str]) -> str:
    return value[0] if len(value) == 1 else f"[{','.join(value)}]"


def read(text: str) -> object:
    """Return the object that a text is; None where it is none."""
    try:
        value = json.loads(text.replace("'", '"'))
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def records() -> nn.Module:
    """Return the model, which the first call trains."""
    generator = seeding.generator(0, "records")
    pairs_of_texts = [draw(generator) for _ in range(_EXAMPLES)]
    inputs = torch.tensor([SIGNS.encode(question + answer.ljust(PLACES, ".")) for question, answer in pairs_of_texts])
    labels = inputs.clone()
    labels[:, :QUESTION_LENGTH] = IGNORED
    examples = Batch(inputs, labels)
    spec = InputSpec((QUESTION_LENGTH + PLACES,), SIGNS.vocabulary, (), (), vocabulary=SIGNS.vocabulary)
    data = Dataset(examples, examples.taken(torch.arange(8)), spec, ("record",), task="masked-diffusion")
    family = registry.get("model", "tiny-llada")
    with seeding.isolate_randomness(0):
        model = family.make(family.config.model_validate({"width": 64, "blocks": 2, "hidden": 172}), spec)

    def make(folder: Path) -> None:
        recipe = Recipe("records", "records", {}, _STEPS, _BATCH, rate=3e-3)
        train(model, data, recipe, lambda step, loss: print(f"  step {step} of {_STEPS}: loss {loss:.3f}", flush=True))
        torch.save(model.state_dict(), folder / "weights.pt")

    folder = checkpoints.make_once(f"records-{_EXAMPLES}-{_STEPS}-{_BATCH}", make, takes="some minutes")
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model.eval()
