"""Exact attacks beyond dense first layers: images of chains of convolutions and residual networks, by equations.

Labels are inferred, masks unknown; seconds are those of one core. An attack is stopped at its first step after so many
processor seconds; its update counts as not exact and is undecided, where the ideal attacker would recover it. With
``--full``: 10 updates a row instead of 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from benchmarks._budget import EXACT, attack_each, ceiling_row
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row, share
from benchmarks._victims import DIGITS, PHOTOGRAPHS, make_attack, observed_victims, seen_of
from fedsim.core import registry

_ALL, _FEW = 10, 5
SMALL: Mapping[str, Any] = {"name": "digits"}
LENET, RESNET = "benchmarks._frontier_models:lenet", "benchmarks._frontier_models:resnet18"
_TRAINING = 300  # steps of Adam
_RELU: Mapping[str, Any] = {"name": LENET, "activation": "relu"}
_SIGMOID: Mapping[str, Any] = {"name": LENET}
_FIXED: Mapping[str, Any] = {  # normalises by statistics that it received
    "name": RESNET, "width": 4, "activation": "silu", "norm": "inference"
}  # fmt: skip
_IMAGE: Mapping[str, Any] = {"name": RESNET, "width": 6, "activation": "silu", "stages": 2}  # by the image's own


class Case(NamedTuple):
    """A setting: in words, what is attacked and by what, steps of training, the share that is asked for, more time."""

    words: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    attack: str = "gauss-newton"
    batch_size: int = 1
    training_steps: int = 0
    share: str = ""
    longer: float = 1.0  # times the budget

    @property
    def setting(self) -> str:
        """The setting in a table."""
        return f"{self.attack}, {self.words}{', trained' if self.training_steps else ''}, B = {self.batch_size}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the attack: `auto` runs nothing that descends."""
        if self.attack != "auto":
            return {}
        methods = registry.methods("attack").items()
        return {"leave_out": [name for name, method in methods if getattr(method.make, "effort", "") == "descent"]}


CASES = (
    Case("LeNet, sigmoid, MNIST", DIGITS, _SIGMOID, share=">= 0.9"),
    Case("LeNet, sigmoid, MNIST", DIGITS, _SIGMOID, batch_size=2, share=">= 0.8"),
    Case("LeNet, sigmoid, CIFAR-10", PHOTOGRAPHS, _SIGMOID, share=">= 0.9"),
    Case("LeNet, ReLU, MNIST", DIGITS, _RELU, "auto"),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, "auto", training_steps=_TRAINING),
    Case("LeNet, ReLU, digits", SMALL, _RELU, "auto", training_steps=_TRAINING),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, batch_size=4),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, batch_size=8),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, "r-gap", 4),
    Case("LeNet, ReLU, digits", SMALL, _RELU, "copa", 4),
    Case("LeNet, ReLU, dropout 0.5 in front of the head, digits", SMALL, {**_RELU, "dropout": 0.5}, "copa", 4),
    Case("ResNet-18 of width 4, SiLU, fixed statistics, digits", SMALL, _FIXED),
    Case("ResNet-18 of width 4, SiLU, fixed statistics, digits", SMALL, _FIXED, batch_size=2),
    Case("ResNet-18 of width 4, SiLU, fixed statistics, digits", SMALL, _FIXED, batch_size=4),
    Case("four residual blocks of width 6, SiLU, GroupNorm, digits", SMALL, _IMAGE, "own-statistics", 4, longer=2),
)


@experiment("exact-frontier", minutes=10, page="attacks/exact-frontier", seconds=50)
def exact_frontier(budget: Budget) -> Cells:
    """Return a cell for each row."""
    victims, seconds = _ALL if budget.full else _FEW, budget.seconds or 0.0
    return {case.setting: partial(_rows, case, victims, seconds) for case in CASES}


def _rows(case: Case, victims: int, budget: float) -> Iterator[Row]:
    observed = list(
        observed_victims(case.data, case.model, victims, batch_size=case.batch_size, trained=case.training_steps)
    )
    attack = make_attack(case.attack, **case.settings)
    outcomes = attack_each(attack, map(seen_of, observed), case.longer * budget)
    exact = [float(outcome.is_exact) for outcome in outcomes]
    note = "" if all(exact) else _ideal_attacker_note(ceiling_row(observed[exact.index(0.0)], case.setting))
    yield share(EXACT, case.setting, exact, case.share, note=note)
    yield share("called exact", case.setting, [float(outcome.guess.is_exact) for outcome in outcomes])
    yield share("out of time", case.setting, [float(outcome.is_stopped) for outcome in outcomes])
    yield median_row("worst PSNR of an update", case.setting, [outcome.worst for outcome in outcomes], "dB")
    yield median_row("processor seconds an update", case.setting, [outcome.seconds for outcome in outcomes], "s")


def _ideal_attacker_note(row: Row) -> str:
    """Return what it would recover of the first update that did not come back."""
    return f"ideal attacker: {f'{row.value:.0%} of the images, ' if row.n else ''}{row.note}"
