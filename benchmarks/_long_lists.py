"""Masked diffusion models of long lists of letters, trained once into the cache: copies, reversed ones, repeats."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedsim.bench.training import Recipe, train
from fedsim.core import checkpoints, registry, seeding
from fedsim.core.losses import IGNORED
from fedsim.core.types import Batch, Dataset, InputSpec

_LETTERS, _VOCABULARY = 26, 29  # letters, an operation each, a separator
_COPIED, _REVERSED, _EXAMPLES = 48, 24, 6000
_WIDE, _MOTIF, _WRONG = 512, 16, 0.1


class Long(NamedTuple):
    """A model, and lists that it was not trained on, with their answers."""

    model: nn.Module
    prompts: Tensor
    answers: Tensor


def draw(letters: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw prompts (N, letters + 2), and answers (N, letters): copies and reversed lists."""
    generator = seeding.generator(seed, f"lists of {letters}")
    items = torch.randint(_LETTERS, (count, letters), generator=generator)
    reverses = torch.randint(2, (count, 1), generator=generator)
    separators = torch.full((count, 1), _VOCABULARY - 1)
    prompts = torch.cat((_LETTERS + reverses, items, separators), 1)
    return prompts, torch.where(reverses == 1, items.flip(1), items)


def draw_reversed(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw prompts and answers of reversed lists of 24 letters alone."""
    prompts, _ = draw(_REVERSED, count, seed)
    prompts[:, 0] = _LETTERS + 1
    return prompts, prompts[:, 1:-1].flip(1)


def draw_repeats(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw prompts (N, 256) and answers (N, 256): 16 letters again and again, in the prompt a tenth of them wrong."""
    generator = seeding.generator(seed, "repeats")
    motif = torch.randint(_LETTERS, (count, _MOTIF), generator=generator)
    prompts, answers = motif.repeat(1, _WIDE // _MOTIF).chunk(2, 1)
    is_wrong = torch.rand(prompts.shape, generator=generator) < _WRONG
    return torch.where(is_wrong, torch.randint(_LETTERS, prompts.shape, generator=generator), prompts), answers


def long_lists(count: int) -> Long:
    """Return the model that copies and reverses lists of 48, trained on the first call, and `count` new lists."""
    model = _trained("long-lists", draw(_COPIED, _EXAMPLES, 0), steps=1500, batch=32, heads=4)
    return Long(model, *draw(_COPIED, count, 1))


def reversed_lists(count: int) -> Long:
    """Return the model that reverses lists of 24, trained on the first call, and `count` new lists."""
    model = _trained("reversed", draw_reversed(_EXAMPLES, 0), steps=1200, batch=32, heads=4)
    return Long(model, *draw_reversed(count, 1))


def repeats(count: int) -> Long:
    """Return the model of repeats in 512 tokens, trained on the first call, and `count` new texts."""
    model = _trained("repeats", draw_repeats(2000, 0), steps=800, batch=8, heads=2)
    return Long(model, *draw_repeats(count, 1))


def _trained(name: str, lists: tuple[Tensor, Tensor], steps: int, batch: int, heads: int) -> nn.Module:
    prompts, answers = lists
    labels = torch.cat((prompts.new_full(prompts.shape, IGNORED), answers), 1)
    examples = Batch(torch.cat((prompts, answers), 1), labels)
    spec = InputSpec((examples.inputs.shape[1],), _VOCABULARY, (), (), vocabulary=_VOCABULARY)
    data = Dataset(examples, examples.taken(torch.arange(8)), spec, ("list",), task="masked-diffusion")
    family = registry.get("model", "tiny-llada")
    with seeding.isolate_randomness(0):
        sizes = {"width": 64, "blocks": 2, "hidden": 172, "heads": heads}
        model = family.make(family.config.model_validate(sizes), spec)
    recipe = Recipe(name, name, {}, steps, batch, rate=3e-3)

    def make(folder: Path) -> None:
        train(model, data, recipe, lambda step, loss: print(f"  step {step} of {steps}: loss {loss:.3f}", flush=True))
        torch.save(model.state_dict(), folder / "weights.pt")

    folder = checkpoints.make_once(f"{name}-{examples.inputs.shape[1]}-{steps}-{batch}", make, takes="some minutes")
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model.eval()
