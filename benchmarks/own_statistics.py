"""Residual networks that normalise by the image itself: what comes back of one gradient, by `own-statistics`.

Labels are inferred, masks unknown; seconds are those of one core. An image counts as exact where every pixel is within
half of one of 255 steps. The contrast comes from the grid of pixels; beside it stands the PSNR of the same walk without
the grid. What is not exact is undecided: the walk lost a stage, or was stopped after so many processor seconds.
The ideal attacker says what the first update of a row holds, without knowing of a grid.

CIFAR-10 is the pack or folder that FEDSIM_CIFAR10 names. With ``--full``: 10 updates a row instead of 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks._budget import EXACT, Outcome, attack_each, ceiling_row, items_of, worst_psnr
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row, share
from benchmarks._victims import make_attack, observed_victims, seen_of
from benchmarks.exact_frontier import RESNET, SMALL
from benchmarks.realism import locate_dataset
from benchmarks.trained_victims import accuracy
from fedsim.core.errors import NotApplicable
from fedsim.threat import victim as observed

_ALL, _FEW = 10, 5
_TRAINING = 300  # steps of Adam
_PHOTOGRAPHS: Mapping[str, Any] = {"name": "cifar10", "train": 2000, "test": 500}
_COLOUR: Mapping[str, Any] = {**_PHOTOGRAPHS, "size": 12}


class Case(NamedTuple):
    """A row: in words, the network's settings, the data, images of an update, and steps of training."""

    words: str
    model: Mapping[str, Any]
    data: Mapping[str, Any] = SMALL
    batch_size: int = 1
    training_steps: int = 0

    @property
    def setting(self) -> str:
        """The row in a table."""
        return f"{self.words}, B = {self.batch_size}"


_SMOOTH: Mapping[str, Any] = {"width": 4, "activation": "silu"}
_RELU: Mapping[str, Any] = {"width": 8, "activation": "relu"}
_BATCH: Mapping[str, Any] = {"width": 8, "activation": "silu", "norm": "batch", "stages": 3}
CASES = (
    Case("GroupNorm, SiLU, width 4, digits", _SMOOTH),
    Case("GroupNorm, SiLU, width 4, digits, trained", _SMOOTH, training_steps=_TRAINING),
    Case("GroupNorm, ReLU, width 8, digits", _RELU),
    Case("BatchNorm in training mode, SiLU, width 8, six blocks, digits", _BATCH),
    Case("GroupNorm, ReLU, width 8, digits, trained", _RELU, training_steps=_TRAINING),
    Case("GroupNorm, SiLU, dropout 0.5, width 4, digits", {**_SMOOTH, "dropout": 0.5}),
    Case("GroupNorm, GELU, width 4, digits", {**_SMOOTH, "activation": "gelu"}),
    Case("GroupNorm, SiLU, width 4, colour 12 x 12", _SMOOTH, _COLOUR),
    Case("GroupNorm, SiLU, width 6, four blocks, digits", {**_SMOOTH, "width": 6, "stages": 2}, batch_size=2),
    Case("BatchNorm in training mode, SiLU, width 8, six blocks, digits, trained", _BATCH, training_steps=_TRAINING),
    Case("GroupNorm, SiLU, width 16, MNIST 16 x 16", {**_SMOOTH, "width": 16}, {"name": "mnist5k", "size": 16}),
    Case("GroupNorm, SiLU, full width of 64, CIFAR-10", {**_SMOOTH, "width": 64}, _PHOTOGRAPHS),
)


@experiment("own-statistics", minutes=30, page="attacks/own-statistics", seconds=90)
def own_statistics(budget: Budget) -> Cells:
    """Return a cell for each network."""
    updates, seconds = _ALL if budget.full else _FEW, budget.seconds or 0.0
    return {case.setting: partial(_rows, case, updates, seconds) for case in CASES}


def _rows(case: Case, updates: int, seconds: float) -> Iterator[Row]:
    model = {"name": RESNET, **case.model}
    data = locate_dataset(case.data)
    victims = list(observed_victims(data, model, updates, batch_size=case.batch_size, trained=case.training_steps))
    try:
        outcomes = attack_each(make_attack("own-statistics"), map(seen_of, victims), seconds)
    except NotApplicable as reason:
        yield Row("refused", case.setting, 1.0, "share", n=updates, note=str(reason))
        return
    yield share(EXACT, case.setting, [float(one.is_exact) for one in outcomes], note=_ends(outcomes))
    equal = [one.guess.diagnostics.get("equal bit by bit", 0.0) for one in outcomes]
    yield share("gradient equal bit by bit", case.setting, equal)
    yield median_row("worst PSNR of an update", case.setting, [one.worst for one in outcomes], "dB")
    if case.batch_size == 1:
        pairs = zip(outcomes, victims, strict=True)
        yield median_row("without the grid", case.setting, [_psnr_without_grid(*pair) for pair in pairs], "dB")
    yield median_row("processor seconds an update", case.setting, [one.seconds for one in outcomes], "s")
    if case.training_steps:
        yield Row("accuracy", case.setting, accuracy(victims[0].world, victims[0].entry.received_weights), "share")
    yield ceiling_row(victims[0], case.setting)


def _psnr_without_grid(outcome: Outcome, victim: observed.Victim) -> float:
    """Return the PSNR in dB of the image at the contrast that it had before the grid."""
    guess = outcome.guess
    contrast = guess.diagnostics.get("factor from the walk's contrast", 1.0)
    return worst_psnr(items_of(replace(guess, inputs=guess.inputs / contrast), seen_of(victim)))


def _ends(outcomes: Iterable[Outcome]) -> str:
    """Return in words how often and how attacks ended that gave no image, without figures of one update."""
    ends = Counter(one.guess.stop_reason.partition(":")[0] for one in outcomes if not len(one.guess.inputs))
    return "; ".join(f"{count} {end}" for end, count in ends.items())
