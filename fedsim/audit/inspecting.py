"""Attack updates of one batch size with `auto`, each within a share of the time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fedsim.audit.clock import OutOfTime, limit
from fedsim.audit.evidence import OUT_OF_TIME
from fedsim.audit.foreign import reason
from fedsim.audit.record import Inspection
from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack
from fedsim.core.masks import without_dropout
from fedsim.core.types import Knowledge, Observation, Reconstruction, Step, Truth, WireEntry
from fedsim.federation.client import local_training
from fedsim.metrics.image import to_pixels
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.record import Ceiling, VictimRecord
from fedsim.scenario.world import World
from fedsim.threat.ceiling import ceiling_of
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim

_ATTACK = "auto"
_LEAST_IMAGES = 8
_LEAST_UPDATES = 2
_MOST_ITERATIONS = 2000
_LEAST_ITERATIONS = 10
_LEAST_SECONDS = 0.5
_FOR_THE_CEILING = 0.2  # share of the time of an update
_HANGS = 2.0  # times that share, after which it is ended
_SHOWN = ("originals", "guesses")
_RESERVE = 2.5  # measured: a step of an attack takes longer than a bare second derivative

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """An update on the wire and its private side."""

    entry: WireEntry
    truth: Truth


@dataclass
class Inspector:
    """Attacks updates of worlds.

    Attributes:
        knows: knowledge granted to the attacker.
        arrays: pictures by name; `inspect` adds to them.
        on_progress: called with what is being done, in words.
    """

    knows: tuple[Knowledge, ...]
    arrays: Arrays
    on_progress: Callable[[str], None]
    is_scored: bool = True
    _cost: dict[int, float] = field(default_factory=dict)

    def inspect(
        self, world: World, seen: Iterator[Seen], most: int, iterations: int, seconds: float, name: str
    ) -> Inspection:
        """Attack updates one by one until `most` are done or the time is over; at least one is started.

        Args:
            world: world of the updates.
            seen: the updates.
            most: largest number of updates.
            iterations: approximate number of gradients per searching attack.
            seconds: time for all of them.
            name: name of the pictures.
        """
        begin = time.monotonic()
        done: list[VictimRecord] = []
        is_short = False
        for number, one in enumerate(itertools.islice(seen, most), 1):
            left = seconds - (time.monotonic() - begin)
            if done and left < done[-1].seconds:
                break
            self.on_progress(f"{name}: attacks update {number} of up to {most}")
            victim, short = self._attack(world, one, iterations, max(left, _LEAST_SECONDS), f"{name}/{number}")
            done.append(victim)
            is_short = is_short or short
        return Inspection(
            batch_size=world.scenario.federation.batch_size,
            iterations=iterations,
            victims=tuple(done),
            summary=self._summary(world, done),
            is_scored=self.is_scored,
            is_short=is_short,
            seconds=time.monotonic() - begin,
        )

    def iterations(self, world: World, seconds: float) -> int:
        """Return how many gradients each attack of `auto` can take on one update, from the measured cost of one."""
        batch_size = world.scenario.federation.batch_size
        if batch_size not in self._cost:
            self._cost[batch_size] = _cost(world, batch_size)
        every = (own.derived_from(Attack) for own in registry.methods("attack").values())
        attacks = sum(own is not None and own.effort == "descent" for own in every)
        affordable = int(seconds / (_RESERVE * attacks * self._cost[batch_size]))
        return min(max(affordable, _LEAST_ITERATIONS), _MOST_ITERATIONS)

    def _attack(
        self, world: World, seen: Seen, iterations: int, seconds: float, name: str
    ) -> tuple[VictimRecord, bool]:
        begin, ceiling_seconds = time.monotonic(), _FOR_THE_CEILING * seconds
        seconds, entry, short = seconds - ceiling_seconds, seen.entry, False
        latest: list[Tensor] = []
        observation = observe(Victim(world, entry, seen.truth), self.knows)
        try:
            with limit(seconds):
                found: Reconstruction | str = _search(world, observation, iterations, entry.round, latest)
        except OutOfTime:
            short = True
            found = _unfinished(observation, latest[0], seen.truth) if latest else "no guess within the time"
        except Exception as error:
            found = reason(error)
        victim = self._recorded(world, seen, found, name)
        update = {"seconds": time.monotonic() - begin, "ceiling": self._ceiling(world, seen, ceiling_seconds, name)}
        return victim.model_copy(update=update), short

    def _ceiling(self, world: World, seen: Seen, seconds: float, name: str) -> Ceiling | None:
        """Return how well anybody could know the images, and keep the map of it."""
        if not self.is_scored:
            return None
        try:
            with limit(_HANGS * seconds):
                found, known = ceiling_of(Victim(world, seen.entry, seen.truth), seconds=seconds)
        except OutOfTime:
            return Ceiling(inputs=seen.truth.batches[0].inputs.numel(), undefined="its time was too short")
        except Exception as error:
            return Ceiling(undefined=reason(error))
        if known is not None:
            self.arrays[f"{name}/known"] = known.float().clamp(0.0, 1.0).numpy()
        return found

    def _recorded(self, world: World, seen: Seen, found: Reconstruction | str, name: str) -> VictimRecord:
        entry = seen.entry
        if isinstance(found, str):
            return VictimRecord(round=entry.round, client=entry.client, failure=found)
        if self.is_scored:
            judged = score(Victim(world, entry, seen.truth), found)
            self.arrays.update({f"{name}/{kind}": judged.arrays[kind] for kind in _SHOWN if kind in judged.arrays})
            return judged.record.model_copy(update={"arrays": name})
        self.arrays[f"{name}/guesses"] = to_pixels(found.inputs, world.data.dataset.spec).numpy()
        return VictimRecord(
            round=entry.round,
            client=entry.client,
            objective=found.objective,
            iterations=found.iterations,
            best_iteration=found.best_iteration,
            stopped=found.stopped,
            history=found.history,
            notes=found.notes,
            facts=dict(found.facts),
            arrays=name,
        )

    def _summary(self, world: World, victims: Sequence[VictimRecord]) -> Any:
        if not victims or not self.is_scored:
            return None
        scoring = world.scenario.scoring
        return summarise(
            victims,
            Rule.of(scoring.metric, scoring.threshold),
            world.scenario.seed,
            confidence=scoring.confidence,
            resamples=scoring.resamples,
        )


def updates(world: World) -> Iterator[Seen]:
    """Yield updates of the client at the audited weights, each on another batch."""
    round_ = 0
    while True:
        round_ += 1
        update, truth = local_training(world, world.models.first_weights, round_, 0)
        if len(truth.private[0]):  # under Poisson sampling a batch may be empty
            yield Seen(WireEntry(round_, 0, world.models.first_weights, update), truth)


def enough(batch_size: int, images: int = _LEAST_IMAGES) -> int:
    """Return how many updates give this many images, at least 2."""
    return max(_LEAST_UPDATES, images // batch_size)


def _search(
    world: World, observation: Observation, iterations: int, round_: int, latest: list[Tensor]
) -> Reconstruction:
    method = registry.get("attack", _ATTACK)
    settings = {"max_iterations": iterations, "mask_iterations": max(1, iterations // 10)}
    attack = cast("Attack[Any]", method.make(method.config.model_validate(settings)))

    def on_step(step: Step) -> None:
        latest[:] = [step.guess]

    seed = world.scenario.seed
    with seeding.isolate_randomness(seeding.derive(seed, "foreign to the audit", round_)):
        return attack(observation, seeding.generator(seed, "attack auto", round_, 0), on_step)


def _unfinished(observation: Observation, guess: Tensor, truth: Truth) -> Reconstruction:
    """Return the last guess of a search that the clock ended."""
    known = observation.labels
    labels = known if known is not None and len(known) == len(guess) else torch.full((len(guess),), -1)
    return Reconstruction(
        inputs=guess.detach().clone(),
        labels=labels,
        masks=None,
        objective=float("nan"),
        iterations=0,
        best_iteration=0,
        history=(),
        stopped=OUT_OF_TIME,
        notes=("the clock ended the search: this is the last guess of the attack that was running",),
    )


def _cost(world: World, batch_size: int) -> float:
    """Return the seconds of one second-order gradient, the minimum of three.

    Where a user's layer or loss has no second derivative, it counts as three gradients.
    """
    model = world.models.holding(world.models.first_weights)
    labels = torch.zeros(batch_size, dtype=torch.long)
    parameters = list(world.models.parameters.values())
    measured: list[float] = []
    with seeding.isolate_randomness(0), without_dropout():
        for _ in range(3):
            inputs = torch.randn(batch_size, *world.data.dataset.spec.shape).requires_grad_()
            begin = time.perf_counter()
            loss = world.stack.criterion(model(inputs), labels)
            gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            first = time.perf_counter() - begin
            total = torch.stack([g.square().sum() for g in gradient if g is not None]).sum()
            try:
                torch.autograd.grad(total, inputs, allow_unused=True)
            except RuntimeError:
                measured.append(3 * first)
            else:
                measured.append(time.perf_counter() - begin)
    return min(measured)
