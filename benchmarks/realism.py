"""The table of realism: what `auto` recovers of trained networks, and what nobody could.

Each cell is attacked as an audit attacks, for so many processor seconds an update on one core: `auto` with the attacks
that search nothing, then with one search of the literature's strength. Then the ideal attacker is asked.
The state is an audit's: an update that was not recovered withstood only where a search converged, or where the ideal
attacker would recover nothing either; else it is undecided. Labels are inferred, masks unknown. One factor is changed
at a time around one centre (`benchmarks/_realism_cells.py`).

CIFAR-10 is the pack or folder that FEDSIM_CIFAR10 names. The first run trains the networks, once, and keeps them in the
cache. With ``--full``: 10 updates a cell instead of 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial

import torch

from attacks.core.results import no_guess
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import timed
from benchmarks._realism_cells import BATCH_NORM, CELLS, Cell
from benchmarks._rows import Row, mean_row, median_row, share
from benchmarks._victims import KNOWN, kept_weights, make_attack, send_update, trained_weights, world_of
from benchmarks.trained_victims import accuracy
from fedsim.audit import evidence
from fedsim.audit.searching import descents, select_searches
from fedsim.audit.update_attacks import REFERENCE_ITERATIONS
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, Reconstruction, Tensors
from fedsim.judgement.evidence import count_recovered, reach
from fedsim.judgement.outcome import outcome_of
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.record import ItemScore, VictimRecord
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim

_ALL, _FEW = 10, 5
_FOR_EXACT = 0.3  # share of the seconds of an update
_FOR_THE_CEILING = 0.2  # share of the seconds of an update


@experiment("realism", minutes=15, page="realism", seconds=20)
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
        seconds: of the processor, of an attack on one of them, which a network's patience multiplies.
    """
    world, weights = world_of(cell.tables()), weights_of(cell)
    seconds *= cell.network.patience
    records = [attack_victim(send_update(world, client, weights), client, seconds) for client in range(victims)]
    yield Row("accuracy", cell.words, accuracy(world, weights), "share", n=len(world.data.dataset.test))
    yield from _figures(records, world, cell.words)


def attack_victim(victim: Victim, number: int, seconds: float) -> VictimRecord:
    """Return what `auto` makes of an update in so many processor seconds, and what the ideal attacker would.

    Args:
        victim: the update.
        number: of it, which the attack draws by.
        seconds: of the attack; the ideal attacker gets a fifth of them.
    """
    guess, taken = timed(partial(_guess, observe(victim, KNOWN), number, seconds))
    record = score(victim, guess).record
    bound = ceiling_of(victim, seconds=_FOR_THE_CEILING * seconds).ceiling
    return record.model_copy(update={"seconds": taken, "ceiling": bound})


def _guess(observation: Observation, number: int, seconds: float) -> Reconstruction:
    """Return the better guess of the attacks that search nothing and of one search."""
    try:
        first = _auto(observation, number, descents(), _FOR_EXACT * seconds)
    except NotApplicable as reason:
        first = no_guess(observation, str(reason))
    if first.is_exact:
        return first
    others = {*registry.entries("attack")} - select_searches(observation, REFERENCE_ITERATIONS)
    second = _auto(observation, number, others, (1 - _FOR_EXACT) * seconds)
    return first if len(first.inputs) and first.objective < second.objective else second


def _auto(observation: Observation, number: int, leave_out: Collection[str], seconds: float) -> Reconstruction:
    attack = make_attack("auto", leave_out=sorted(leave_out), max_iterations=REFERENCE_ITERATIONS)
    return attack(observation, seeding.generator(1, "attack", number), seconds=seconds)


def ceiling(cell: Cell) -> Iterator[Row]:
    """Yield how far the ideal attacker comes on the first update of a cell."""
    world, weights = world_of(cell.tables()), weights_of(cell)
    bound = ceiling_of(send_update(world, 0, weights)).ceiling
    reached = reach([bound], world.scenario.scoring.rule)
    note = f"{reached.text if reached else ''}, rank {bound.rank} of {bound.inputs}"
    yield Row("ideal attacker", cell.words, (reached and reached.psnr) or 0.0, "dB", note=note)


def weights_of(cell: Cell) -> Tensors:
    """Return the weights that the clients receive; they come from the cache."""
    lesson, steps = cell.lesson(), cell.network.steps
    description = [{**lesson, "data": dict(cell.network.data)}, steps]
    return torch.load(
        kept_weights("realism", description, lambda: trained_weights(world_of(lesson), steps)), weights_only=True
    )


def _figures(victims: Sequence[VictimRecord], world: World, setting: str) -> Iterator[Row]:
    rule = world.scenario.scoring.rule
    items = [victim.scores for victim in victims if victim.scores]
    ideal, state = evidence.ideal(victims, rule).text, outcome_of(victims, rule)
    winners = Counter(map(_winner, victims))
    by = ", ".join(f"{name} ({count})" if len(winners) > 1 else name for name, count in winners.items())
    opened = [float(count_recovered(victim, rule) > 0) for victim in victims]
    yield share("updates with an image identified", setting, opened, note=f"{state}; ideal attacker: {ideal}; by {by}")
    for name, is_right in (("identified", rule.has_succeeded), ("exact", _is_exact)):
        right = [sum(map(is_right, scores)) / len(scores) for scores in items] or [0.0]
        yield mean_row(f"images {name}", setting, right, "share")
    psnr = [[item.values["psnr"] for item in scores] for scores in items]
    yield median_row("PSNR", setting, psnr or [[0.0]], "dB")
    yield median_row("steps", setting, [float(victim.iterations) for victim in victims], "")
    yield median_row("processor seconds of an update", setting, [victim.seconds for victim in victims], "s")


def _is_exact(item: ItemScore) -> bool:
    return item.values["exact_pixels"] > 0


def _winner(victim: VictimRecord) -> str:
    """Return the attack whose guess was kept, or why the search stopped."""
    first = next((note for note in victim.notes if note.startswith("won: ")), "")
    return first.removeprefix("won: ").partition(",")[0] or victim.stopped
