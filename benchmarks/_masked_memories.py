"""Small masked diffusion models that were trained on few sentences of news for short or long, once, into the cache.

All sentences have 24 tokens and come from the same reports in random order: those that are trained on (members), as
many that nobody trained on (others), and as many of the attacker's own, on which it trains a reference. Beside the
members stand planted texts of random tokens, each several times; as many more are drawn and left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedsim.bench.training import Recipe, train
from fedsim.core import checkpoints, registry, seeding
from fedsim.core.types import Batch, Dataset

LENGTH, MEMBERS, PLANTED = 24, 100, 10
TRAINED = {"briefly": 400, "long": 1500}
"""Steps of a training, by how it is called."""
_REPEATED, _BATCH, _WORDS = 8, 32, 2000


class Material(NamedTuple):
    """Texts of 24 tokens, (N, 24) each: trained on, not trained on, the attacker's own; planted, and left out."""

    data: Dataset
    members: Tensor
    others: Tensor
    of_attacker: Tensor
    planted: Tensor
    left_out: Tensor


def material() -> Material:
    """Draw the texts."""
    source = registry.get("dataset", "lee-news")
    data = source.make(source.config.model_validate({"words": _WORDS, "length": LENGTH}))
    texts = data.train.inputs
    whole = texts[(texts != data.spec.padding).all(1)].unique(dim=0)
    generator = seeding.generator(0, "masked memories")
    members, others, of_attacker = whole[torch.randperm(len(whole), generator=generator)[: 3 * MEMBERS]].chunk(3)
    random_texts = torch.randint(data.spec.vocabulary or 0, (2 * PLANTED, LENGTH), generator=generator)
    return Material(data, members, others, of_attacker, *random_texts.chunk(2))


def memory(texts: Material, trained: str) -> nn.Module:
    """Return the model of members and planted texts, trained on the first call."""
    every = torch.cat((texts.members, texts.planted.repeat(_REPEATED, 1)))
    return _model(texts.data, every, f"masked-memory-{TRAINED[trained]}", TRAINED[trained])


def reference(texts: Material) -> nn.Module:
    """Return the attacker's reference, trained briefly on texts of its own."""
    steps = TRAINED["briefly"]
    return _model(texts.data, texts.of_attacker, f"masked-reference-{steps}", steps)


def _model(data: Dataset, texts: Tensor, name: str, steps: int) -> nn.Module:
    family = registry.get("model", "tiny-llada")
    with seeding.isolate_randomness(0):
        model = family.make(family.config.model_validate({"width": 64, "blocks": 2, "hidden": 172}), data.spec)
    examples = Batch(texts, texts)
    dataset = Dataset(examples, examples.taken(torch.arange(8)), data.spec, ("text",), task="masked-diffusion")

    def make(folder: Path) -> None:
        train(model, dataset, Recipe(name, name, {}, steps, _BATCH, rate=3e-3), lambda _step, _loss: None)
        torch.save(model.state_dict(), folder / "weights.pt")

    folder = checkpoints.make_once(f"{name}-{len(texts)}-{LENGTH}", make, takes="some minutes")
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model.eval()
