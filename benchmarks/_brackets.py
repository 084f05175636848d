"""A small masked diffusion model of balanced brackets, and the grammar that it learns from examples alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks._signs import Signs
from fedsim.bench.training import Recipe, train
from fedsim.core import checkpoints, registry, seeding
from fedsim.core.types import Batch, Dataset, InputSpec

GRAMMAR = 'S = "(" S ")" S | "[" S "]" S | "a" S |'
PLACES = 16
SIGNS = Signs("()[]a.")  # the point ends a text
_EXAMPLES, _STEPS, _BATCH = 4000, 500, 32


def is_valid(text: str) -> bool:
    """Say whether the brackets of a text are balanced."""
    left: list[str] = []
    for sign in text:
        if sign in "([":
            left.append(sign)
        elif sign in ")]" and (not left or left.pop() + sign not in ("()", "[]")):
            return False
    return not left


def draw(generator: torch.Generator) -> str:
    """Draw a text of the grammar that fits."""
    while True:
        text = _draw_balanced(generator, 0)
        if 2 <= len(text) <= PLACES:  # noqa: PLR2004 - the empty text and a single letter are too easy
            return text


def _draw_balanced(generator: torch.Generator, depth: int) -> str:
    kind = int(torch.randint(6, (), generator=generator))
    if kind >= 4 or depth > PLACES:  # noqa: PLR2004 - two of six draws end
        return ""
    first = {0: "a", 1: "("}.get(kind, "[" if kind == 2 else "(")  # noqa: PLR2004
    if first == "a":
        return "a" + _draw_balanced(generator, depth + 1)
    last = ")" if first == "(" else "]"
    return first + _draw_balanced(generator, depth + 1) + last + _draw_balanced(generator, depth + 1)


def brackets() -> nn.Module:
    """Return the model, which the first call trains."""
    generator = seeding.generator(0, "brackets")
    rows = [SIGNS.encode(draw(generator).ljust(PLACES, ".")) for _ in range(_EXAMPLES)]
    examples = Batch(torch.tensor(rows), torch.tensor(rows))
    spec = InputSpec((PLACES,), SIGNS.vocabulary, (), (), vocabulary=SIGNS.vocabulary)
    data = Dataset(examples, examples.taken(torch.arange(8)), spec, ("text",), task="masked-diffusion")
    family = registry.get("model", "tiny-llada")
    with seeding.isolate_randomness(0):
        model = family.make(family.config.model_validate({"width": 48, "blocks": 2, "hidden": 96}), spec)

    def make(folder: Path) -> None:
        train(model, data, Recipe("brackets", "brackets", {}, _STEPS, _BATCH, rate=3e-3), lambda _step, _loss: None)
        torch.save(model.state_dict(), folder / "weights.pt")

    folder = checkpoints.make_once(f"brackets-{_EXAMPLES}-{_STEPS}-{_BATCH}", make, takes="a minute")
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model.eval()
