"""The table of realism: what `auto` recovers of trained networks, and what nobody could.

Each cell is attacked as an audit attacks, for so many processor seconds an update on one core: `auto` with the attacks
that search nothing, then with one search of the literature's strength. Then the ideal attacker is asked.
The state is an audit's: an update that was not recovered withstood only where a search converged, or where the ideal
attacker would recover nothing either; else it is undecided. Labels are inferred, masks unknown. One factor is changed
at a time around one centre.

CIFAR-10 is the pack or folder that FEDSIM_CIFAR10 names. The first run trains the networks, once, and keeps them in the
cache. With ``--full``: 10 updates a cell instead of 5.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attacks.core.results import no_guess
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._frontier_models import Norm
from benchmarks._passes import timed
from benchmarks._rows import Row, mean_row, median_row, share
from benchmarks._victims import KNOWN, kept_weights, make_attack, send_update, trained_weights, world_of
from benchmarks.trained_victims import accuracy
from fedsim.audit import evidence
from fedsim.audit.searching import descents, select_searches
from fedsim.audit.update_attacks import REFERENCE_ITERATIONS
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, NotApplicable
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
_OWNS = 16  # examples of a client
_RATE = 0.25  # of dropout, where it is on
_PATIENCE = 2  # where it decides something


class Network(NamedTuple):
    """A network: in words, where its clients' images come from, and its training.

    Attributes:
        words: for people.
        data: data set and its settings; of CIFAR-10 without its path.
        model: model and its settings.
        examples: of the training set, which clients share.
        steps: of the training; 0 where it is not trained.
        learns_as: the settings of the model that is trained, where they are others.
        patience: times the seconds that an attack on an update gets.
    """

    words: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    examples: int
    steps: int
    learns_as: Mapping[str, Any] = {}
    patience: int = 1


class Client(NamedTuple):
    """What a client does: images of its gradient, dropout."""

    batch_size: int = 1
    dropout: float = 0.0

    @property
    def words(self) -> str:
        """All of it, in words."""
        return f"trained, B = {self.batch_size}, dropout {self.dropout:g}"


class Cell(NamedTuple):
    """A client of a network."""

    network: Network
    client: Client = Client()

    @property
    def words(self) -> str:
        """What a row is called."""
        return f"{self.network.words}, {self.client.words}"

    def tables(self) -> dict[str, Any]:
        """Return the scenario of the client.

        Raises:
            FedsimError: the images are CIFAR-10, and no variable names a copy.
        """
        client, network = self.client, self.network
        federation: dict[str, Any] = {
            "clients": max(3, network.examples // _OWNS),
            "batch_size": client.batch_size,
        }
        return {
            "title": "benchmark",
            "seed": 5,
            "data": locate_dataset(network.data),
            "model": {**network.model, "dropout": client.dropout},
            "federation": federation,
        }

    def lesson(self) -> dict[str, Any]:
        """Return the scenario that the weights are trained in: without dropout, so that all cells share them."""
        plain = Cell(self.network, Client(batch_size=2)).tables()
        return {**plain, "model": {**plain["model"], **self.network.learns_as}}


def locate_dataset(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set with the path of the copy that a variable names, if it is CIFAR-10.

    Raises:
        FedsimError: the variable is not set, or there is nothing.
    """
    if data["name"] != "cifar10":
        return dict(data)
    where = os.environ.get("FEDSIM_CIFAR10", "")
    if not where or not Path(where).exists():
        raise FedsimError("set FEDSIM_CIFAR10 to a torchvision root or pack of CIFAR-10.")
    return {**data, "path": where}


_CIFAR = {"name": "cifar10", "train": 10_000, "test": 2000}
_SMALL_CIFAR = {**_CIFAR, "size": 16}
_DIGITS = {"name": "digits"}
_LENET = {"name": "benchmarks._frontier_models:lenet"}


def _residual(words: str, norm: Norm, learns_as: Mapping[str, Any], patience: int = 1) -> Network:
    model = {"name": "benchmarks._frontier_models:resnet18", "width": 16, "activation": "relu", "norm": norm}
    label = f"ResNet-18 of width 16, {words}, CIFAR-10 at 16 x 16"
    return Network(label, _SMALL_CIFAR, model, 10_000, 1200, learns_as, patience=patience)


_TOKENS = {"name": "vit-small", "patch": 8, "width": 128, "heads": 8}
BATCH_NORM = _residual("BatchNorm", "batch", {}, _PATIENCE)
GROUP_NORM = _residual("GroupNorm", "group", {})
INFERENCE = _residual("BatchNorm in inference mode", "inference", {"norm": "batch"})
LENET = Network(
    "LeNet, ReLU, digits",
    _DIGITS,
    {**_LENET, "activation": "relu"},
    1400,
    500,
)
SMALL_VIT = Network("small ViT, CIFAR-10", _CIFAR, _TOKENS, 10_000, 1000)
MLP = Network("MLP, digits", _DIGITS, {"name": "mlp"}, 1400, 500)
CELLS = (
    Cell(MLP),
    Cell(LENET),
    Cell(LENET, Client(batch_size=4)),
    Cell(SMALL_VIT),
    Cell(SMALL_VIT, Client(dropout=_RATE)),
    Cell(INFERENCE),
    Cell(BATCH_NORM),
)


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
