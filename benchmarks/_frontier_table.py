"""The table of networks: batches, dropout and trained weights, several attacks beside each other and the ceiling.

Narrow networks on images of 8 x 8 pixels, three victims a cell. An attack is stopped at its first step after a budget
of processor seconds. What was not recovered is undecided unless the ideal attacker would not recover it either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from benchmarks._budget import EXACT, Outcome, attack_within
from benchmarks._experiments import Cells
from benchmarks._frontier_cases import CONVNET, GRADIENTS, LENET, RELU, RESNET, SMALL, auto_with, fixed
from benchmarks._rows import Row, measured, share
from benchmarks._victims import Victim, observed_victims, seen_of
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.metrics.evidence import reach
from fedsim.metrics.success import Rule
from fedsim.threat.ceiling import ceiling_of
from fedsim.threat.victim import Victim as Observed

_VICTIMS = 3
_CEILING = 60.0  # seconds of the ideal attacker, who is asked for an interval where they do not suffice
_TRAINING = 300  # steps of Adam
_DESCENTS = ("inverting-gradients", "dropout-inversion")
_ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "auto": auto_with(_DESCENTS[0]),
    "gauss-newton": {},
    "copa": {},
    **{name: {"max_iterations": GRADIENTS} for name in _DESCENTS},
}


class Condition(NamedTuple):
    """What a client does, and which attacks are tried on it."""

    words: str
    attacks: Sequence[str] = ("auto", "gauss-newton")
    batch_size: int = 1
    dropout: float = 0.0
    trained: int = 0


_ALONE = ("auto", "gauss-newton", "copa")
CONDITIONS = (
    Condition("B = 1", (*_ALONE, "inverting-gradients")),
    Condition("B = 1, dropout 0.5", (*_ALONE, "dropout-inversion"), dropout=0.5),
    Condition("B = 1, trained", (*_ALONE, "inverting-gradients"), trained=_TRAINING),
    *(Condition(f"B = {size}", (*_ALONE, "inverting-gradients"), batch_size=size) for size in (2, 4, 8)),
)
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "LeNet, sigmoid": {"name": LENET},
    "LeNet, ReLU": {"name": LENET, **RELU},
    **{
        f"ResNet-18 of width 4, {words}": {"name": RESNET, "width": 4, "activation": words.lower()}
        for words in ("SiLU", "ReLU", "GELU")
    },
    "ResNet-18 of width 4 with fixed statistics, SiLU": fixed("silu"),
    "ResNet-18 of width 4 with fixed statistics, ReLU": fixed("relu"),
    "convnet, ReLU": CONVNET,
}


def table_cells(seconds: float) -> Cells:
    """Return a cell for each network and condition: what each attack recovers, then the ceiling.

    Args:
        seconds: of the processor, for an attack on an update.
    """
    return {
        f"table, {network}, digits, {condition.words}": partial(
            _cell,
            {**model, "dropout": condition.dropout},
            condition,
            f"table, {network}, digits, {condition.words}",
            seconds,
        )
        for condition in CONDITIONS
        for network, model in NETWORKS.items()
    }


def _cell(model: Mapping[str, Any], condition: Condition, words: str, budget: float) -> Iterator[Row]:
    observed = list(
        observed_victims(SMALL, model, _VICTIMS, batch_size=condition.batch_size, trained=condition.trained)
    )
    for name in condition.attacks:
        yield from _rows(name, [seen_of(victim) for victim in observed], words, budget)
    yield ceiling_row(observed[0], words)


def _rows(name: str, victims: Sequence[Victim], words: str, budget: float) -> Iterator[Row]:
    setting = f"{words}, {name}"
    try:
        outcomes = [_attacked(name, victim, number, budget) for number, victim in enumerate(victims)]
    except NotApplicable as reason:
        yield Row("refused", setting, 1.0, "share", n=len(victims), note=str(reason))
        return
    yield share(EXACT, setting, [float(one.is_exact) for one in outcomes])
    stopped = [float(one.is_stopped) for one in outcomes]
    yield share(f"stopped after {budget:g} s", setting, stopped)
    yield measured("worst PSNR of an update", setting, [one.worst for one in outcomes], "dB", "")
    yield measured("processor seconds an update", setting, [one.seconds for one in outcomes], "s", "")


def _attacked(name: str, victim: Victim, number: int, budget: float) -> Outcome:
    method = registry.get("attack", name)
    return attack_within(budget, method.make(method.config.model_validate(dict(_ATTACKS[name]))), victim, number)


def ceiling_row(victim: Observed, words: str) -> Row:
    """Return the share of images that the ideal attacker recovers of one update exactly."""
    reached = reach([ceiling_of(victim, seconds=_CEILING).ceiling], Rule.of("exact_pixels", 0.5))
    if reached is None or reached.share is None or reached.psnr is None:
        return Row("ideal attacker", words, 0.0, "share", n=0, note=reached.in_words if reached else "none")
    note = f"median {reached.psnr:.0f} dB"
    return Row("ideal attacker: images exact", words, reached.share, "share", note=note)
