"""Batches of a small vision transformer, separated by the dropout of their embedding: how many images come back.

Untrained, two blocks, every place drops out at the same rate; photographs of CIFAR-10. An update counts as exact where
every image is. With ``--full``: 10 updates a row, or as many as the photographs give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks._budget import EXACT, Outcome, attack_within
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, averaged, measured, share
from benchmarks._victims import PHOTOGRAPHS, Victim, victims_of
from fedsim.core import registry
from fedsim.core.errors import NotApplicable

_IMAGES = 20  # of the data set
_ALL, _FEW = 10, 5
_PLACED = 1e-3  # relative error of a patch that counts as found at its position
_PATCH = 8


class Case(NamedTuple):
    """A row: dropout rate and hidden units of the model, images of an update, and the share that is asked for."""

    rate: float
    images: int
    hidden: int = 256
    share: str = ""

    @property
    def setting(self) -> str:
        """The row in a table."""
        return f"p = {self.rate:g}, {self.hidden:,} hidden units, B = {self.images}"

    def victims(self, most: int) -> Iterator[Victim]:
        """Yield clients that share the data set."""
        model: Mapping[str, Any] = {
            "name": "vit-small", "blocks": 2, "dropout": self.rate, "patch": _PATCH, "width": 256, "hidden": self.hidden
        }  # fmt: skip
        clients = _IMAGES // self.images
        yield from victims_of(PHOTOGRAPHS, model, min(most, clients), batch_size=self.images, clients=clients)


CASES = (
    Case(0.5, 1, share=">= 0.9"),
    Case(0.5, 2, share=">= 0.7"),
    Case(0.5, 3),
    Case(0.5, 4),
    Case(0.5, 4, 1024),
    Case(0.25, 2),
    Case(0.1, 2),
    Case(0.0, 2),
)


@experiment("patch-dictionary", minutes=5, page="attacks/patch-dictionary", seconds=60)
def patch_dictionary(budget: Budget) -> Cells:
    """Return a cell for each row."""
    victims, seconds = _ALL if budget.full else _FEW, budget.seconds or 0.0
    return {case.setting: partial(_rows, case, victims, seconds) for case in CASES}


def _rows(case: Case, most: int, seconds: float) -> Iterator[Row]:
    victims = list(case.victims(most))
    try:
        outcomes = [_attack(victim, number, seconds) for number, victim in enumerate(victims)]
    except NotApplicable as reason:
        yield Row("refused", case.setting, 0.0, "", n=0, note=str(reason))
        return
    placed = [_placed(one.guess.inputs, victim.batch.inputs) for one, victim in zip(outcomes, victims, strict=True)]
    yield share(EXACT, case.setting, [float(one.is_exact) for one in outcomes], case.share)
    yield averaged("patches at their position", case.setting, placed, "share", ">= 1" if case.share else "")
    yield measured("worst PSNR of an update", case.setting, [one.worst for one in outcomes], "dB")
    yield measured("processor seconds an update", case.setting, [one.seconds for one in outcomes], "s")


def _attack(victim: Victim, number: int, seconds: float) -> Outcome:
    method = registry.get("attack", "patch-dictionary")
    return attack_within(seconds, method.make(method.config()), victim, number)


def _placed(patches: Tensor, wanted: Tensor) -> float:
    """Return the share of the true patches that one of the guesses has at the same position."""
    if not len(patches):
        return 0.0
    ours, theirs = _cut(patches), _cut(wanted)
    errors = torch.cdist(theirs, ours).amin(2) / theirs.norm(dim=2)
    return float((errors < _PLACED).double().mean())


def _cut(images: Tensor) -> Tensor:
    """Return the patches of images (B, C, H, W), shape (positions, B, entries)."""
    tiles = images.double().unfold(2, _PATCH, _PATCH).unfold(3, _PATCH, _PATCH)
    return tiles.permute(2, 3, 0, 1, 4, 5).flatten(3).flatten(0, 1)
