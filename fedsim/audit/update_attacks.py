"""Attacks on updates of a given batch size: exact attacks first, then a search at the literature's strength.

A search starts only if it can still change the verdict: the exact attacks left an image unrecovered, and the ideal
attacker would recover it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedsim.audit.foreign import reason
from fedsim.audit.groups import CLASSES, ExampleGroups
from fedsim.audit.searching import LatestGuess, descents, read_words, search, select_searches
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.time_budget import TimeBudget, TimeBudgetExceeded, interrupt_on_timeout
from fedsim.core.types import Batch, Knowledge, Observation, Reconstruction, WireEntry
from fedsim.federation.client import local_training
from fedsim.judgement.evidence import is_evidence, is_out_of_reach
from fedsim.judgement.limits import judge_limit
from fedsim.metrics.image import to_pixels
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.questions.attacks.question import finding_of, record_victim
from fedsim.questions.base import QuestionContext
from fedsim.record import AttackFinding, Ceiling, ItemScore, VictimRecord
from fedsim.scenario import AttackChoice
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim

_LEAST_IMAGES = 8
_LEAST_UPDATES = 2
REFERENCE_ITERATIONS = 4800  # iterations per restart, as in Geiping et al. 2020, arXiv 2003.14053
_SHORT = 300  # iterations if the ideal attacker recovers nothing
_MOST_EXACT = 1000  # gradients of an exact attack that uses gradients
_FOR_EXACT, _LEAST_EXACT = 0.3, 10.0  # share of an update's time, and minimum seconds
_LEAST_ITERATIONS = 10
_LEAST_SECONDS = 0.5
_FOR_THE_CEILING = 0.2  # share of the time of an update
_HANGS = 2.0  # multiple of that share after which it is interrupted
_OF_THE_SEARCH = ("objective", "iterations", "best_iteration", "history", "notes")
_RESERVE = 2.5  # measured ratio of an attack step to a bare second derivative

_AUTO = AttackChoice(name="auto")


@dataclass
class UpdateAttacker:
    """Attacks updates of worlds.

    Attributes:
        knows: knowledge granted to the attacker.
        on_progress: callback for progress messages.
        is_scored: whether the originals are known.
        groups: groupings for a comparison of risk; the user's grouping is stored with each example.
    """

    knows: tuple[Knowledge, ...]
    on_progress: Callable[[str], None]
    is_scored: bool = True
    groups: tuple[ExampleGroups, ...] = (CLASSES,)
    _cost: dict[int, float] = field(default_factory=dict)
    _is_hopeless: bool = False  # the ideal attacker recovers nothing of the latest update

    def inspect(
        self,
        world: World,
        victims: Iterator[Victim],
        work: QuestionContext,
        limit: int,
        iterations: int,
        seconds: float,
        allowed: float | None = None,
        before: Sequence[VictimRecord] = (),
    ) -> AttackFinding:
        """Attack updates in sequence until `limit` are done or the time is over; at least the first is started.

        More updates are attacked only while they can change the verdict.

        Args:
            world: world of the updates.
            victims: the updates.
            work: stores the pictures.
            limit: largest number of updates.
            iterations: approximate number of gradients of a search.
            seconds: time for all updates.
            allowed: share of recovered images that a policy allows; once it is broken, no further update is attacked.
            before: existing results of the first updates; the attack continues after them.
        """
        budget, done, first = TimeBudget.with_wall_limit(seconds), list(before), len(before)
        for number, victim in enumerate(itertools.islice(victims, first, limit), first + 1):
            left = budget.remaining_seconds
            if done and left < (done[-1].seconds if number > first + 1 else _LEAST_SECONDS):
                break
            self.on_progress(f"{work.place}: attacks update {number} of up to {limit}")
            done.append(self._attack(victim, iterations, max(left, _LEAST_SECONDS), str(number), work))
            is_first = len(done) < enough(world.scenario.federation.batch_size)
            if (
                allowed is not None
                and not is_first
                and judge_limit(self.finding(world, done).value, allowed) == "broken"
            ):
                break
        return self.finding(world, done)

    def finding(self, world: World, victims: Sequence[VictimRecord]) -> AttackFinding:
        """Return the finding of attacks on these updates."""
        scenario = world.scenario
        finding = finding_of(_AUTO, self.knows, victims, scenario.scoring, scenario.seed)
        return finding.model_copy(update={"scope": {"batch size": scenario.federation.batch_size}})

    def iterations(self, world: World, seconds: float) -> int:
        """Return the number of gradients that fit the time at the measured cost, at most `REFERENCE_ITERATIONS`."""
        batch_size = world.scenario.federation.batch_size
        if batch_size not in self._cost:
            self._cost[batch_size] = _cost(world, batch_size)
        affordable = int(seconds / (_RESERVE * self._cost[batch_size]))
        return min(max(affordable, _LEAST_ITERATIONS), REFERENCE_ITERATIONS)

    def seconds(self, world: World) -> float:
        """Return the estimated seconds of a search at the literature's strength."""
        self.iterations(world, 0.0)
        return REFERENCE_ITERATIONS * _RESERVE * self._cost[world.scenario.federation.batch_size]

    def _attack(
        self, victim: Victim, iterations: int, seconds: float, place: str, work: QuestionContext
    ) -> VictimRecord:
        budget = TimeBudget()
        latest, observation = LatestGuess(), observe(victim, self.knows)
        try:
            with interrupt_on_timeout(TimeBudget.with_wall_limit(seconds)):
                guess: Reconstruction | str = self._find(victim, observation, iterations, seconds, latest)
        except TimeBudgetExceeded:
            guess = latest.best(observation)
        except Exception as error:
            guess = reason(error)
        if not isinstance(guess, str):
            guess = replace(with_read_targets(victim, guess, latest), extras={**latest.read, **guess.extras})
        record = self._record(victim, guess, place, work)
        if latest.known_map is not None:
            work.keep(place, {"known": latest.known_map.float().clamp(0.0, 1.0).numpy()})
        return record.model_copy(update={"seconds": budget.used, "ceiling": latest.ceiling})

    def _find(
        self, victim: Victim, observation: Observation, iterations: int, seconds: float, latest: LatestGuess
    ) -> Reconstruction:
        """Run the exact attacks and the ideal attacker, then search if that can still change the verdict.

        If the ideal attacker recovered nothing of the previous update, it runs first and the exact attacks may be
        skipped.
        """
        world, round_ = victim.world, victim.entry.round
        skipped = set(registry.entries("attack")) - select_searches(observation, iterations)
        unlabelled = observation if _has_classes(victim) else observe(victim, set(self.knows) - {"labels"})
        latest.read = read_words(world, observation, round_)
        if self._is_hopeless:
            self._ask_ideal(victim, seconds, latest)
        if not self._is_hopeless:
            latest.exact = self._exact(victim, unlabelled, iterations, seconds, latest)
        if latest.ceiling is None:
            self._ask_ideal(victim, seconds, latest)
        if latest.exact is not None and self._is_settled(victim, latest.exact, latest.ceiling):
            return latest.exact
        strength = min(iterations, _SHORT) if self._is_hopeless else iterations  # confirms the ideal attacker
        guess = search(world, observation, strength, skipped, round_, latest)
        return latest.exact if latest.exact is not None and latest.exact.objective < guess.objective else guess

    def _ask_ideal(self, victim: Victim, seconds: float, latest: LatestGuess) -> None:
        """Run the ideal attacker, and store whether it recovers nothing."""
        latest.ceiling, latest.known_map = self._ceiling(victim, _FOR_THE_CEILING * seconds)
        empty = VictimRecord(round=victim.entry.round, client=0, ceiling=latest.ceiling)
        self._is_hopeless = is_out_of_reach(empty, victim.world.scenario.scoring.rule)

    def _exact(
        self, victim: Victim, observation: Observation, iterations: int, seconds: float, latest: LatestGuess
    ) -> Reconstruction | None:
        """Return the best guess of the attacks without a search; None if no such attack succeeds in time."""
        try:
            with interrupt_on_timeout(
                TimeBudget.with_wall_limit(max(_FOR_EXACT * seconds, min(seconds, _LEAST_EXACT)))
            ):
                limit, round_ = min(iterations, _MOST_EXACT), victim.entry.round
                guess = search(victim.world, observation, limit, descents(), round_, latest)
        except (TimeBudgetExceeded, NotApplicable):
            latest.step = None
            return None
        return guess if len(guess.inputs) else None

    def _is_settled(self, victim: Victim, exact: Reconstruction, ceiling: Ceiling | None) -> bool:
        """Return whether a search could change nothing: the guess is exact, or the ideal attacker fails on the rest."""
        if exact.is_exact:
            return True
        if not self.is_scored:
            return False
        return is_evidence(
            score(victim, exact).record.model_copy(update={"ceiling": ceiling}), victim.world.scenario.scoring.rule
        )

    def _ceiling(self, victim: Victim, seconds: float) -> tuple[Ceiling | None, Tensor | None]:
        """Return the ideal attacker's result and the map of its known pixels."""
        if not self.is_scored:
            return None, None
        try:
            with interrupt_on_timeout(TimeBudget.with_wall_limit(_HANGS * seconds)):
                return ceiling_of(victim, seconds=seconds)
        except TimeBudgetExceeded:
            inputs = victim.truth.batches[0].inputs.numel()
            return Ceiling(inputs=inputs, undefined="its time was too short"), None
        except Exception as error:
            return Ceiling(undefined=reason(error)), None

    def _record(self, victim: Victim, guess: Reconstruction | str, place: str, work: QuestionContext) -> VictimRecord:
        if self.is_scored or isinstance(guess, str):
            record = record_victim(victim, guess, place, work)
            return record.model_copy(update={"scores": self._with_groups(record.scores, victim)})
        pixels = to_pixels(guess.inputs, victim.world.data.dataset.spec).numpy()
        kept = work.keep(place, {"guesses": pixels})
        searched = {name: getattr(guess, name) for name in _OF_THE_SEARCH}
        entry = victim.entry
        return VictimRecord(
            round=entry.round,
            client=entry.client,
            diagnostics=dict(guess.diagnostics),
            stopped=guess.stop_reason,
            arrays=kept,
            **searched,
        )

    def _with_groups(self, scores: tuple[ItemScore, ...], victim: Victim) -> tuple[ItemScore, ...]:
        for groups in self.groups:
            if groups is not CLASSES:
                names = groups.of(victim.examples)
                return tuple(item.model_copy(update={"group": names[item.index]}) for item in scores)
        return scores


def _has_classes(victim: Victim) -> bool:
    return victim.world.task.label_kind == "class"


def with_read_targets(victim: Victim, guess: Reconstruction, latest: LatestGuess) -> Reconstruction:
    """Return a guess with targets set to NaN unless exact attacks recovered them: a search is given the targets."""
    is_read = latest.exact is not None and guess.inputs is latest.exact.inputs
    if _has_classes(victim) or is_read:
        return guess
    return replace(guess, labels=torch.full((len(guess.inputs),), torch.nan))


def updates(world: World) -> Iterator[Victim]:
    """Yield updates of the client at the audited weights, each on another batch."""
    weights = world.models.first_weights
    for round_ in itertools.count(1):
        update, truth = local_training(world, weights, round_, 0)
        if len(truth.original_batches[0]):  # under Poisson sampling a batch may be empty
            yield Victim(world, WireEntry(round_, 0, weights, update), truth)


def enough(batch_size: int, images: int = _LEAST_IMAGES) -> int:
    """Return how many updates contain this many images, at least 2."""
    return max(_LEAST_UPDATES, images // batch_size)


def _cost(world: World, batch_size: int) -> float:
    """Return the processor seconds of a second-order gradient, the minimum of three measurements.

    If the user's layer or loss has no second derivative, it counts as three first-order gradients.
    """
    model = world.models.load_weights(world.models.first_weights)
    parameters, spec = list(world.models.parameters.values()), world.data.dataset.spec
    known = world.data.dataset.train
    measured: list[float] = []
    with seeding.isolate_randomness(0), disable_dropout():
        for _ in range(3):
            if len(known):
                batch = known.select(torch.arange(batch_size) % len(known))
            else:
                batch = Batch(torch.randn(batch_size, *spec.shape), torch.zeros(batch_size, dtype=torch.long))
            if batch.inputs.is_floating_point():
                batch.inputs.requires_grad_()
            begin = time.process_time()
            loss = world.stack.criterion(*world.task.answer(model, batch, {}))
            gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            first = time.process_time() - begin
            total = torch.stack([g.square().sum() for g in gradient if g is not None]).sum()
            try:
                torch.autograd.grad(total, batch.inputs, allow_unused=True)
            except RuntimeError:  # a layer without second derivative, or tokens
                measured.append(3 * first)
            else:
                measured.append(time.process_time() - begin)
    return min(measured)
