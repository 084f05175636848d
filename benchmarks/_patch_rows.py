"""Rows of `patch-dictionary`, and of `gradvit` beside it: batches of a small vision transformer on photographs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks._budget import EXACT, attack_within
from benchmarks._experiments import Cells, Measure
from benchmarks._rows import Row, averaged, measured, share
from benchmarks._victims import PHOTOGRAPHS, Victim, victims_of
from fedsim.core import registry
from fedsim.core.types import Knowledge

_IMAGES = 20  # of the data set
_KNOWN: tuple[Knowledge, ...] = ("batch-size", "dropout-rates", "input-statistics")
_ALL, _FEW = 10, 2  # victims of a row, and of a batch that grows
_PLACED = 1e-3  # relative error of a patch that counts as found at its position
_BATCHES = (1, 2, 3, 4, 5, 6, 7, 8)
RATES, WIDTHS, PATCHES, FACTORS = (0.5, 0.25), (128, 256), (16, 8), (1, 4)


def _model_words(rate: float, width: int, patch: int, hidden: int) -> str:
    return f"patch {patch}, width {width}, {hidden} hidden units, p = {rate:g}"


class Setting(NamedTuple):
    """A batch of a transformer: rate, width, patch and hidden units of the model, images of the batch."""

    rate: float
    width: int
    patch: int
    images: int
    hidden: int = 256

    @property
    def words(self) -> str:
        """How a row names it."""
        return f"{_model_words(self.rate, self.width, self.patch, self.hidden)}, B = {self.images}"

    @property
    def model(self) -> Mapping[str, Any]:
        """Name and settings of the model: two blocks, every place drops out at the same rate."""
        sizes = {"patch": self.patch, "width": self.width, "hidden": self.hidden}
        return {"name": "vit-small", "blocks": 2, "dropout": self.rate, **sizes}

    def victims(self, most: int) -> Iterator[Victim]:
        """Yield clients that share the data set."""
        clients = _IMAGES // self.images
        yield from victims_of(
            PHOTOGRAPHS, self.model, min(most, clients), batch_size=self.images, knows=_KNOWN, clients=clients
        )


class Case(NamedTuple):
    """A setting, how it is attacked, victims of the short version, and the share of exact updates that is asked for."""

    setting: Setting
    few: int
    share: str = ""
    attack: str = "patch-dictionary"
    iterations: int | None = None

    @property
    def words(self) -> str:
        """How its rows name it."""
        return f"{self.attack}, small ViT, CIFAR-10, {self.setting.words}"


CASES = (
    Case(Setting(0.5, 256, 8, 1), 3, ">= 0.9"),
    Case(Setting(0.5, 256, 8, 2), 3, ">= 0.7"),
    Case(Setting(0.5, 256, 8, 3), 2),
    Case(Setting(0.5, 256, 8, 4), 1),
    Case(Setting(0.25, 256, 8, 2), 3),
    *(Case(Setting(rate, 256, 8, images, 1024), 1) for rate, images in ((0.5, 4), (0.5, 5), (0.5, 6), (0.25, 3))),
    Case(Setting(0.1, 256, 8, 2), 1),
    Case(Setting(0.0, 256, 8, 2), 1),
    Case(Setting(0.0, 256, 8, 1), 1, attack="gradvit", iterations=1000),
    Case(Setting(0.5, 256, 8, 1), 1, attack="gradvit", iterations=1000),
    Case(Setting(0.5, 256, 8, 2), 1, attack="gradvit", iterations=1000),
)


def patch_cells(full: bool, seconds: float) -> Cells:
    """Return the cells of the short version, or those of ten victims a setting and the largest batches.

    Args:
        full: the long version.
        seconds: of the processor, for an attack on an update.
    """
    cells: dict[str, Measure] = {
        case.words: partial(_rows, case, _ALL if full else case.few, seconds) for case in CASES
    }
    for patch, width, factor, rate in itertools.product(PATCHES, WIDTHS, FACTORS, RATES) if full else ():
        sizes = (rate, width, patch, factor * width)
        cells[_limit_words(*sizes)] = partial(growing_batches, *sizes, _FEW, seconds)
    return cells


class _Outcome(NamedTuple):
    worst: float  # dB
    is_exact: bool
    placed: float  # share of the patches
    separated: float  # share of the tokens
    seconds: float
    end: str


def _rows(case: Case, victims: int, seconds: float) -> list[Row]:
    outcomes = [_attack(case, victim, number, seconds) for number, victim in enumerate(case.setting.victims(victims))]
    words = case.words
    exact = [float(one.is_exact) for one in outcomes]
    placed, separated = [one.placed for one in outcomes], [one.separated for one in outcomes]
    must_place = ">= 1" if case.share else ""
    return [
        share(EXACT, words, exact, case.share),
        measured("worst PSNR of an update", words, [one.worst for one in outcomes], "dB", ""),
        averaged("patches at their position", words, placed, "share", must_place),
        averaged("tokens separated", words, separated, "share"),
        measured("processor seconds an update", words, [one.seconds for one in outcomes], "s", ""),
    ]


def _limit_words(rate: float, width: int, patch: int, hidden: int) -> str:
    return f"largest batch, patch-dictionary, small ViT, CIFAR-10, {_model_words(rate, width, patch, hidden)}"


def growing_batches(rate: float, width: int, patch: int, hidden: int, victims: int, seconds: float) -> Iterator[Row]:
    """Yield rows of growing batches, until one is not exact in every update within so many processor seconds."""
    words = _limit_words(rate, width, patch, hidden)
    for images in _BATCHES:
        case = Case(Setting(rate, width, patch, images, hidden), victims)
        outcomes = [
            _attack(case, victim, number, seconds) for number, victim in enumerate(case.setting.victims(victims))
        ]
        exact, setting = [float(one.is_exact) for one in outcomes], f"{words}, B = {images}"
        yield share(EXACT, setting, exact)
        yield measured("tokens separated", setting, [one.separated for one in outcomes], "share", "")
        yield measured("processor seconds an update", setting, [one.seconds for one in outcomes], "s", "")
        failed = [one.end for one in outcomes if not one.is_exact]
        if failed:
            yield Row("largest batch that is exact", words, images - 1.0, "images", note=f"the next: {failed[0]}")
            return
    yield Row("largest batch that is exact", words, float(_BATCHES[-1]), "images", note="no larger one was tried")


def _attack(case: Case, victim: Victim, number: int, budget: float) -> _Outcome:
    method = registry.get("attack", case.attack)
    settings = {} if case.iterations is None else {"max_iterations": case.iterations}
    made = method.make(method.config.model_validate(settings))
    if not made.applicable(victim.observation).holds:
        return _Outcome(0.0, False, 0.0, 0.0, 0.0, "refused")
    outcome = attack_within(budget, made, victim, number)
    guess = outcome.guess
    tokens = guess.facts.get("tokens", 0.0)
    separated = guess.facts["tokens separated"] / tokens if "tokens separated" in guess.facts else 0.0
    placed = _placed(guess.inputs, victim.batch.inputs, case.setting.patch)
    end = f"stopped after {budget:g} s" if outcome.is_stopped else "not exact"
    return _Outcome(outcome.worst, outcome.is_exact, placed, separated, outcome.seconds, end)


def _placed(patches: Tensor, wanted: Tensor, patch: int) -> float:
    """Share of the true patches that one of the found images has at the same position."""
    if not len(patches):
        return 0.0
    ours, theirs = _cut(patches, patch), _cut(wanted, patch)
    errors = torch.cdist(theirs, ours).amin(2) / theirs.norm(dim=2)
    return float((errors < _PLACED).double().mean())


def _cut(images: Tensor, patch: int) -> Tensor:
    """Return the patches of images (B, C, H, W), shape (positions, B, entries)."""
    tiles = images.double().unfold(2, patch, patch).unfold(3, patch, patch)
    return tiles.permute(2, 3, 0, 1, 4, 5).flatten(3).flatten(0, 1)
