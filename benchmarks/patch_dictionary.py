"""Batches of a vision transformer, separated by the dropout of their embedding: how many images come back.

Untrained, every place drops out at the same rate: two blocks on photographs of CIFAR-10, and ViT-B/16 on photographs
of 224 x 224 pixels. An update counts as exact where every image is. Where images are missing, the ideal attacker says
what the first such update holds. With ``--full``: 10 updates a row, or as many as the photographs give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks._budget import EXACT, Outcome, attack_within, ceiling_row
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row, median_row, share
from benchmarks._victims import PHOTOGRAPHS, make_attack, observed_victims, seen_of
from fedsim.core.errors import NotApplicable
from fedsim.threat import victim as observed

_IMAGES = 20  # of the data set
_ALL, _FEW = 10, 5
_PLACED = 1e-3  # relative error of a patch that counts as found at its position
_LARGE: Mapping[str, Any] = {"name": "foolbox-samples", "collection": "imagenet"}


class Case(NamedTuple):
    """A row: a network in words and its settings, images of an update, data, pixels of a patch, the share asked for."""

    words: str
    model: Mapping[str, Any]
    images: int
    data: Mapping[str, Any] = PHOTOGRAPHS
    patch: int = 8
    share: str = ""

    @property
    def setting(self) -> str:
        """The row in a table."""
        return f"{self.words}, B = {self.images}"

    def victims(self, most: int) -> Iterator[observed.Victim]:
        """Yield updates of clients that share the data set."""
        clients = _IMAGES // self.images
        yield from observed_victims(self.data, self.model, min(most, clients), batch_size=self.images, clients=clients)


def _small(rate: float, images: int, hidden: int = 256, share: str = "") -> Case:
    model = {"name": "vit-small", "blocks": 2, "dropout": rate, "patch": 8, "width": 256, "hidden": hidden}
    return Case(f"p = {rate:g}, {hidden:,} hidden units", model, images, share=share)


def _base(rate: float, images: int) -> Case:
    return Case(f"ViT-B/16, 224 x 224, p = {rate:g}", {"name": "vit-b16", "dropout": rate}, images, _LARGE, 16)


CASES = (
    _small(0.5, 1, share=">= 0.9"),
    _small(0.5, 2, share=">= 0.7"),
    _small(0.5, 3),
    _small(0.5, 4),
    _small(0.5, 4, 1024),
    _small(0.25, 2),
    _small(0.1, 2),
    _small(0.0, 2),
    _base(0.5, 2),
    _base(0.75, 2),
    _base(0.75, 3),
)


@experiment("patch-dictionary", minutes=15, page="attacks/patch-dictionary", seconds=300)
def patch_dictionary(budget: Budget) -> Cells:
    """Return a cell for each row."""
    victims, seconds = _ALL if budget.full else _FEW, budget.seconds or 0.0
    return {case.setting: partial(_rows, case, victims, seconds) for case in CASES}


def _rows(case: Case, most: int, seconds: float) -> Iterator[Row]:
    attack, outcomes, placed = make_attack("patch-dictionary"), list[Outcome](), list[float]()
    missed: observed.Victim | None = None
    try:
        for number, victim in enumerate(case.victims(most)):  # one at a time: its gradient may be large
            outcomes.append(attack_within(seconds, attack, seen_of(victim), number))
            placed.append(_placed_share(outcomes[-1].guess.inputs, victim.truth.batches[0].inputs, case.patch))
            missed = missed or (None if outcomes[-1].is_exact else victim)
    except NotApplicable as reason:
        yield Row("refused", case.setting, 0.0, "", n=0, note=str(reason))
        return
    yield share(EXACT, case.setting, [float(one.is_exact) for one in outcomes], case.share)
    yield mean_row("patches at their position", case.setting, placed, "share", ">= 1" if case.share else "")
    yield median_row("worst PSNR of an update", case.setting, [one.worst for one in outcomes], "dB")
    yield median_row("processor seconds an update", case.setting, [one.seconds for one in outcomes], "s")
    if missed is not None:
        yield ceiling_row(missed, case.setting)


def _placed_share(guesses: Tensor, images: Tensor, patch: int) -> float:
    """Return the share of the true patches that one of the guesses has at the same position."""
    if not len(guesses):
        return 0.0
    ours, theirs = _cut(guesses, patch), _cut(images, patch)
    errors = torch.cdist(theirs, ours).amin(2) / theirs.norm(dim=2)
    return float((errors < _PLACED).double().mean())


def _cut(images: Tensor, patch: int) -> Tensor:
    """Return the patches of images (B, C, H, W), shape (positions, B, entries)."""
    tiles = images.double().unfold(2, patch, patch).unfold(3, patch, patch)
    return tiles.permute(2, 3, 0, 1, 4, 5).flatten(3).flatten(0, 1)
