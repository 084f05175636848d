"""Small masked diffusion models that copy or reverse long lists of letters, trained once into the cache."""

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
_EXAMPLES = 6000


class Long(NamedTuple):
    """A model, and lists that it was not trained on, with their answers."""

    model: nn.Module
    prompts: Tensor
    answers: Tensor


def draw(letters: int, operations: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw prompts (N, letters + 2) and answers (N, letters): copies, and with two operations reversed lists too."""
    generator = seeding.generator(seed, f"lists of {letters}")
    items = torch.randint(_LETTERS, (count, letters), generator=generator)
    reverses = torch.randint(operations, (count, 1), generator=generator)
    separators = torch.full((count, 1), _VOCABULARY - 1)
    prompts = torch.cat((_LETTERS + reverses, items, separators), 1)
    return prompts, torch.where(reverses == 1, items.flip(1), items)


def long_lists(letters: int, operations: int, steps: int, batch: int, count: int) -> Long:
    """Return the model for lists of a length, trained on the first call, and `count` new lists.

    Without steps it is not trained: what it costs is the same.
    """
    prompts, answers = draw(letters, operations, _EXAMPLES, 0)
    labels = torch.cat((prompts.new_full(prompts.shape, IGNORED), answers), 1)
    examples = Batch(torch.cat((prompts, answers), 1), labels)
    spec = InputSpec((examples.inputs.shape[1],), _VOCABULARY, (), (), vocabulary=_VOCABULARY)
    data = Dataset(examples, examples.taken(torch.arange(8)), spec, ("list",), task="masked-diffusion")
    family = registry.get("model", "tiny-llada")
    sizes = {"width": 64, "blocks": 2, "hidden": 172}
    with seeding.isolate_randomness(0):
        model = family.make(family.config.model_validate(sizes), spec)
    recipe = Recipe("long lists", "long lists", {}, steps, batch, rate=3e-3)

    def make(folder: Path) -> None:
        train(model, data, recipe, lambda step, loss: print(f"  step {step} of {steps}: loss {loss:.3f}", flush=True))
        torch.save(model.state_dict(), folder / "weights.pt")

    if not steps:
        return Long(model.eval(), *draw(letters, operations, count, 1))
    folder = checkpoints.make_once(f"long-lists-{letters}-{operations}-{steps}-{batch}", make, takes="some minutes")
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return Long(model.eval(), *draw(letters, operations, count, 1))
