"""The table of realism: what `auto` recovers of trained networks, and what nobody could.

Each cell is attacked as an audit attacks, for so many seconds an update on one core: attacks that search nothing, the
ideal attacker, then one search. The state is the audit's: an update that was not recovered withstood only where a
search converged, or where the ideal attacker would recover nothing either; else it is undecided. Labels are inferred,
masks unknown. One factor is changed at a time around one centre (`benchmarks/_realism_cells.py`). Seconds are those of
a clock, as of an audit, so other programs take their part.

CIFAR-10 is the pack or folder that FEDSIM_CIFAR10 names. The first run trains the networks, once, and keeps them in the
cache. With ``--full``: 10 updates a cell instead of 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._realism_cells import BATCH_NORM, CELLS, Cell
from benchmarks._rows import Row, averaged, measured, share
from benchmarks._victims import KNOWN, kept_weights, trained_weights, world_of
from benchmarks.trained_victims import accuracy
from fedsim.audit import evidence
from fedsim.audit.inspecting import Inspector
from fedsim.audit.record import AuditArm
from fedsim.core.types import Tensors, WireEntry
from fedsim.federation.client import local_training
from fedsim.metrics.evidence import reach, recovered, state_of
from fedsim.metrics.success import Rule
from fedsim.questions import Work
from fedsim.record import Ceiling, ItemScore, VictimRecord
from fedsim.scenario.world import World
from fedsim.threat.ceiling import ceiling_of
from fedsim.threat.victim import Victim

_ALL, _FEW = 10, 5


@experiment("realism", minutes=30, page="realism", seconds=30)
def realism(budget: Budget) -> Cells:
    """Return a cell for each network and client, and that of the ceiling which decides something."""
    victims, undecided = _ALL if budget.full else _FEW, Cell(BATCH_NORM)
    return {
        **{cell.words: partial(rows_of, cell, victims, budget.seconds or 0.0) for cell in CELLS},
        f"ceiling: {undecided.words}": partial(ceiling, undecided),
    }


def rows_of(cell: Cell, victims: int, seconds: float) -> Iterator[Row]:
    """Yield what `auto` recovers of a cell, and the audit's state of it.

    Args:
        cell: what is attacked.
        victims: number of updates.
        seconds: of an attack on one of them, which a network's patience multiplies.
    """
    world, weights = world_of(cell.tables()), weights_of(cell)
    inspector = (_Unasking if cell.network.is_large else Inspector)(KNOWN, lambda _what: None)
    arm = _attacked(inspector, world, weights, victims, seconds * cell.network.patience)
    if cell.steps:
        yield Row("accuracy", cell.words, accuracy(world, weights), "share", n=len(world.data.dataset.test))
    yield from _figures(arm, world, cell.words)


def ceiling(cell: Cell) -> Iterator[Row]:
    """Yield how far the ideal attacker comes on the first update of a cell."""
    world, weights = world_of(cell.tables()), weights_of(cell)
    victim, scoring = _victim(world, weights, 0), world.scenario.scoring
    ceiling_of_update = ceiling_of(victim).ceiling
    reached = reach([ceiling_of_update], Rule.of(scoring.metric, scoring.threshold))
    note = f"{reached.in_words if reached else ''}, rank {ceiling_of_update.rank} of {ceiling_of_update.inputs}"
    yield Row("ideal attacker", cell.words, (reached and reached.psnr) or 0.0, "dB", note=note)


def weights_of(cell: Cell) -> Tensors:
    """Return the weights that the clients receive; trained ones come from the cache."""
    if not cell.steps:
        return world_of(cell.tables()).models.first_weights
    lesson = cell.lesson()
    description = [{**lesson, "data": dict(cell.network.data)}, cell.steps]
    return torch.load(
        kept_weights("realism", description, lambda: trained_weights(world_of(lesson), cell.steps)), weights_only=True
    )


class _Unasking(Inspector):
    """Attacks without asking the ideal attacker, so that nothing that it does not recover withstood."""

    def _ceiling(self, victim: Victim, seconds: float) -> tuple[Ceiling, None]:
        return Ceiling(undefined="not asked of so large a model"), None


def _attacked(inspector: Inspector, world: World, weights: Tensors, victims: int, seconds: float) -> AuditArm:
    """Attack one update after the other, each for all of the seconds."""
    updates = [_victim(world, weights, client) for client in range(victims)]
    iterations = inspector.iterations(world, seconds)
    arm = AuditArm(name="updates", batch_size=world.scenario.federation.batch_size)
    for number in range(victims):
        work, before = Work(place=arm.name), arm.victims
        finding = inspector.inspect(world, iter(updates), work, number + 1, iterations, seconds, before=before)
        arm = arm.model_copy(update={"findings": (finding,)})
    return arm


def _victim(world: World, weights: Tensors, client: int) -> Victim:
    update, truth = local_training(world, weights, 1, client)
    return Victim(world, WireEntry(1, client, weights, update), truth)


def _figures(arm: AuditArm, world: World, setting: str) -> Iterator[Row]:
    victims, scoring = arm.victims, world.scenario.scoring
    rule = Rule.of(scoring.metric, scoring.threshold)
    items = [victim.scores for victim in victims if victim.scores]
    ideal, state = evidence.ideal(victims, rule).in_words, state_of(victims, rule)
    winners = Counter(map(_winner, victims))
    by = ", ".join(f"{name} ({count})" if len(winners) > 1 else name for name, count in winners.items())
    opened = [float(recovered(victim, rule) > 0) for victim in victims]
    yield share("updates with an image identified", setting, opened, note=f"{state}; ideal attacker: {ideal}; by {by}")
    for name, is_right in (("identified", rule.has_succeeded), ("exact", _is_exact)):
        right = [sum(map(is_right, scores)) / len(scores) for scores in items] or [0.0]
        yield averaged(f"images {name}", setting, right, "share")
    psnr = [[item.values["psnr"] for item in scores] for scores in items]
    yield measured("PSNR", setting, psnr or [[0.0]], "dB")
    yield measured("steps", setting, [float(victim.iterations) for victim in victims], "")
    yield measured("seconds of an update", setting, [victim.seconds for victim in victims], "s")


def _is_exact(item: ItemScore) -> bool:
    return item.values["exact_pixels"] > 0


def _winner(victim: VictimRecord) -> str:
    """Return the attack whose guess was kept, or why there is none."""
    if victim.failure is not None:
        return f"failed: {victim.failure}"
    first = next((note for note in victim.notes if note.startswith("won: ")), "")
    return first.removeprefix("won: ").partition(",")[0] or victim.stopped
