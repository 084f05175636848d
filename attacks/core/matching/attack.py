"""Settings and base class of gradient-matching attacks: group the victims, descend, report the best row.

The objective is J = D(g(x, u), g*) + sum_i w_i P_i(x) + prior(u), with distance D and priors P_i of the settings, and
unknowns u of the attack. By default it is 1 - cos(g, g*) + w TV(x) (arXiv 2003.14053, equation 4).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import searched_sites
from attacks.core.labels import LabelRule, labels_of
from attacks.core.matching.comparison import Comparison, GeneralComparison
from attacks.core.matching.descent import (
    Descent,
    DescentSettings,
    RestartResult,
    ScheduleName,
    Search,
    VictimGroup,
    descend,
)
from attacks.core.matching.ghost import CompiledComparison, GhostComparison, fastest
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.simulated_client import SimulatedClient, simulated_client
from attacks.core.matching.starts import Start, first_inputs
from attacks.core.matching.terms import DistanceChoice, PriorChoice, distance_setting, left_out, prior_settings, sum_of
from attacks.core.matching.unknown_masks import FirstMasks, OptimisedMasks, Relaxation
from attacks.core.matching.unknowns import MASKS, SearchProgress, Unknowns, map_tensors, without_masks
from attacks.core.outlooks import GRADIENTS_OF_A_STEP, outlook_of
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from fedsim.core.hooks import ANY_LABELS, Attack, CostEstimate
from fedsim.core.types import Config, DropoutSite, LabelKind, Observation, OnStep, Reconstruction

_HISTORY_POINTS = 400
_ROWS_AT_ONCE = 32
_NUMBERS_AT_ONCE = 4_000_000
_CONVERGED = 1.1
Statistics = Literal["attack", "batch", "running"]


class GradientSearchConfig(Config):
    """Settings of every gradient-inversion search."""

    start: Start = Field(
        default="normal",
        description="normal: noise; patterned: a tiled random square; colour: a uniform colour; grey: zeros",
    )
    pattern: int = Field(default=4, ge=1, description="for patterned: edge of the square, in pixels")
    label_rule: LabelRule = Field(
        default="counting",
        description="how unknown labels of several examples are inferred: counting and impact allow repeated "
        "classes, distinct and negative do not",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="where the search runs, if the scenario says no device"
    )
    distance: DistanceChoice = distance_setting("cosine")
    priors: tuple[PriorChoice, ...] = prior_settings({"total-variation": 1e-5})
    statistics: Statistics = Field(
        default="attack", description="normalisation layers: batch or running statistics, or the attack's own choice"
    )
    restarts: int = Field(default=1, ge=1, description="independent restarts, run at once; the lowest objective wins")


class MatchingConfig(GradientSearchConfig):
    """Settings of the search. The defaults are the reference settings of the Dropout Inversion Attack."""

    max_iterations: int = Field(default=20_000, ge=1, description="maximum number of iterations per restart")
    learning_rate: float = Field(default=0.1, gt=0, description="Adam's step, in normalised input units and mask units")
    sign: Sign = Field(
        default="hard",
        description="hard: only the sign of the inputs' gradient; soft: tanh(g / its RMS); off: as it is",
    )
    boxed: bool = Field(default=True, description="clamp the dummy to the pixel range after every step")
    schedule: ScheduleName = Field(
        default="plateau", description="how the step shrinks; steps: tenfold after 3/8, 5/8 and 7/8 of the iterations"
    )
    plateau_patience: int = Field(
        default=800, ge=1, description="for plateau: iterations without improvement before the step shrinks"
    )
    plateau_factor: float = Field(default=0.1, gt=0, lt=1, description="for plateau: factor by which the step shrinks")
    warm_up: int = Field(default=0, ge=0, description="for cosine: iterations until the full step")
    langevin: float = Field(
        default=0.0, ge=0, description="standard deviation of noise on the inputs' gradient, in steps"
    )
    threshold: float = Field(default=1e-5, ge=0, description="stop when the objective is below this")
    patience: int = Field(default=4000, ge=1, description="stop after this many iterations without a new best")
    still: float = Field(
        default=0.0, ge=0, description="stop when 100 iterations move the dummy by less (normalised units); 0: never"
    )
    engine: Literal["fastest", "general", "compiled"] = Field(
        default="fastest",
        description="general: build every gradient explicitly; compiled: the fast path through torch.compile, which "
        "needs a C++ compiler and minutes to compile",
    )


SearchT = TypeVar("SearchT", bound=GradientSearchConfig)
ConfigT = TypeVar("ConfigT", bound=MatchingConfig)


class GradientSearch(Attack[SearchT]):
    """A search for inputs whose gradient matches a single gradient. Subclasses define the settings of the descent.

    Subclasses with unknowns besides the inputs override `unknowns`.

    Attributes:
        training_mode: whether normalisation layers use batch statistics, unless the settings override it.
        searches_draws: whether the attack simulates the task's random draws in a step.
    """

    training_mode: ClassVar[bool] = True
    searches_draws: ClassVar[bool] = False

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps, and tasks with random draws that the attack does not simulate."""
        if observation.task.draws and not self.searches_draws:
            return (
                f"each step of task '{observation.task.name}' has draws of its own, such as noise, which this attack "
                "does not search; for 'denoising', denoiser-inversion does"
            )
        return one_gradient_only(observation)

    def plan(self, victims: VictimGroup) -> Search:
        """Return the search for victims of equal model and shape, with the distance and priors of the settings."""
        distance, priors = self.config.distance.make("distance"), sum_of(self.config.priors, victims)
        distance.prepare(victims)
        unknowns, first = self.unknowns(victims.observations), self.first(victims.observations)
        return Search(unknowns, first, distance, priors, distance.reads_entries)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the unknowns besides the inputs, dropout masks included.

        By default none: forward passes without dropout.
        """
        return Unknowns()

    def sites(self, observation: Observation) -> tuple[DropoutSite, ...]:
        """Return the dropout sites of the model; an attack may assume other rates."""
        return observation.sites

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search on a single victim."""
        return self.search_batch([observation], [generator], [on_step])[0]

    def search_batch(
        self,
        observations: Sequence[Observation],
        generators: Sequence[torch.Generator],
        on_steps: Sequence[OnStep],
    ) -> list[Reconstruction]:
        """Search on many victims at once; victims of different model or shape are searched in separate computations."""
        results: dict[int, Reconstruction] = {}
        for group in _groups(observations, self.max_victims(observations[0])):
            chosen = [observations[index] for index in group]
            of_group = [generators[index] for index in group], [on_steps[index] for index in group]
            results.update(zip(group, self._match(chosen, *of_group), strict=True))
        return [results[index] for index in range(len(observations))]

    @abstractmethod
    def descent_settings(self) -> DescentSettings:
        """Return the settings of the descent."""

    def first(self, observations: Sequence[Observation]) -> Callable[[int, torch.Generator], Tensor]:
        """Return the function that draws a victim's dummy inputs according to the settings."""
        shape = (self.dummies(observations[0]), *observations[0].spec.shape)
        return lambda _victim, generator: first_inputs(self.config.start, shape, self.config.pattern, generator)

    def run_descent(self, descent: Descent) -> list[RestartResult]:
        """Return the results of all rows, victim by victim; an attack may extend the descent."""
        return descend(descent)

    def dummies(self, observation: Observation) -> int:
        """Return the number of dummy inputs of a row: the batch size."""
        return observation.batch_size or 1

    def remarks(self, observation: Observation) -> tuple[str, ...]:
        """Return notes for the record about this attack on this observation."""
        return left_out(self.config.priors, observation)

    def _match(
        self, observations: list[Observation], generators: list[torch.Generator], on_steps: list[OnStep]
    ) -> list[Reconstruction]:
        labels = [self.labels(observation) for observation in observations]
        rows, path = self.run_search(VictimGroup(observations, labels, generators, on_steps))
        reconstructions: list[Reconstruction] = []
        for victim, (observation, label) in enumerate(zip(observations, labels, strict=True)):
            results = [row for row in rows if row.victim == victim]
            # Reports of subclasses need a row with a finite objective.
            report = partial(GradientSearch.report, self) if has_failed(results) else self.report
            reconstructions.append(report(observation, results, label, path))
        return reconstructions

    def labels(self, observation: Observation) -> Tensor:
        """Return the labels of the dummy inputs, granted or inferred."""
        return labels_of(observation, self.config.label_rule)

    def run_search(self, victims: VictimGroup) -> tuple[list[RestartResult], str]:
        """Return the results of all rows, and the name of the comparison path."""
        descent = self.descent(victims, self.plan(victims))
        return self.run_descent(descent), descent.comparison.name

    def descent(self, victims: VictimGroup, search: Search) -> Descent:
        """Return the descent of a search with the attack's settings."""
        first, comparison = victims.observations[0], self.comparison(victims.observations, search)
        return Descent(comparison, search, victims, self.descent_settings(), self.box(first), self.config.restarts)

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Return the reconstruction from the victim's rows."""
        return best_of(rows, labels, path, self.remarks(observation))

    def box(self, observation: Observation) -> tuple[Tensor, Tensor] | None:
        """Return the range of dummy inputs, or None, the default, if they are not clamped."""
        return None

    def simulated_client(self, observation: Observation) -> SimulatedClient:
        """Return the simulated client, with a copy of the model; the observed model is not changed."""
        return simulated_client(observation, self.sites(observation), self._uses_batch_statistics())

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        """Return the comparison of gradients for the search; by default every gradient is built explicitly."""
        return GeneralComparison(self.simulated_client(observations[0]), observations)

    def _uses_batch_statistics(self) -> bool:
        return self.training_mode if self.config.statistics == "attack" else self.config.statistics == "batch"

    def max_victims(self, observation: Observation) -> int:
        """Return the number of victims per computation: at most 32 rows and 4 million unknowns."""
        numbers = sum(math.prod(site.shape) for site in observation.sites)
        numbers += (observation.batch_size or 1) * math.prod(observation.spec.shape)
        rows = min(_ROWS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // numbers))
        return max(1, rows // self.config.restarts)


class MatchingAttack(GradientSearch[ConfigT]):
    """A search by Adam."""

    label_kinds: ClassVar[frozenset[LabelKind]] = ANY_LABELS

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return this number of iterations."""
        return {"max_iterations": gradients}

    def outlook(self, observation: Observation) -> CostEstimate:
        """Count the gradients of all iterations; restarts share a computation."""
        chance, because = self.estimate_success(observation)
        return outlook_of(observation, self.count_gradients(observation), chance, because, rows=self.config.restarts)

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Return the chance that the search ends at the examples of an exact update, and its reason as a clause."""
        return 0.1, "a search with many minima"

    def count_gradients(self, observation: Observation) -> float:
        """Return the number of gradients that cost as much as the iterations of a restart."""
        return GRADIENTS_OF_A_STEP * self.config.max_iterations

    def descent_settings(self) -> DescentSettings:
        """Return the settings of the descent; an attack may override them."""
        config = self.config
        return DescentSettings(
            iterations=config.max_iterations,
            rate=config.learning_rate,
            sign=config.sign,
            schedule=config.schedule,
            patience=config.plateau_patience,
            factor=config.plateau_factor,
            warm_up=config.warm_up,
            langevin=config.langevin,
            threshold=config.threshold,
            stall=config.patience,
            still=config.still,
        )

    def box(self, observation: Observation) -> tuple[Tensor, Tensor] | None:
        """Return the pixel range, or None if the settings do not clamp dummy inputs."""
        return pixel_box(observation) if self.config.boxed else None

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        """Return the comparison of gradients for the settings and the search."""
        first, client = observations[0], self.simulated_client(observations[0])
        if self.config.engine == "general" or search.reads_entries:
            return GeneralComparison(client, observations)
        probe = torch.Generator().manual_seed(0)
        one_row = map_tensors(search.unknowns.first(probe), lambda variable: variable[None])
        values = search.unknowns.forward_values(one_row, SearchProgress([0], [probe] * len(observations)))
        shapes = map_tensors(values, lambda value: value[0].detach())
        examples = search.unknowns.draws * (first.batch_size or 1)
        chosen = fastest(client, observations, examples, shapes.get(MASKS, ()), probe, without_masks(shapes))
        if self.config.engine == "compiled" and isinstance(chosen, GhostComparison):
            return CompiledComparison(chosen)
        return chosen


class MaskSearchConfig(MatchingConfig):
    """Settings of a search for inputs and dropout masks."""

    mask_weight: float = Field(default=1e-4, ge=0, description="weight l_m of the mask prior of DIA")

    def searched_masks(
        self,
        sites: tuple[DropoutSite, ...],
        *,
        rate: float | None = None,
        known: tuple[dict[int, Tensor], ...] = ({},),
        begin: FirstMasks = "bernoulli",
        relaxation: Relaxation = "box",
    ) -> Unknowns:
        """Return the masks of these sites as unknowns; see `OptimisedMasks`. The default rate is that of the inputs."""
        masks = OptimisedMasks(
            rate=self.learning_rate if rate is None else rate,
            sites=sites,
            known_masks=known,
            begin=begin,
            relaxation=relaxation,
            weight=self.mask_weight,
        )
        return Unknowns((masks,))


MaskSearchT = TypeVar("MaskSearchT", bound=MaskSearchConfig)


class MaskSearchAttack(MatchingAttack[MaskSearchT]):
    """A matching attack that also searches dropout masks of known rates; with unknown rates it ignores dropout.

    Attributes:
        first_masks: initialisation of the masks.
    """

    first_masks: ClassVar[FirstMasks] = "bernoulli"

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the masks; of no sites if the rates are unknown."""
        return self.config.searched_masks(searched_sites(observations[0]), begin=self.first_masks)


def _groups(observations: Sequence[Observation], at_once: int) -> list[list[int]]:
    """Return groups of observation indices that fit into a joint computation: equal weights, shapes and rates."""
    groups: list[list[int]] = []
    for index, observation in enumerate(observations):
        fitting = (group for group in groups if len(group) < at_once and _is_alike(observations[group[0]], observation))
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(index)
    return groups


def _is_alike(first: Observation, second: Observation) -> bool:
    if (first.batch_size, first.sites, first.hidden_parameters, first.known_methods) != (
        second.batch_size,
        second.sites,
        second.hidden_parameters,
        second.known_methods,
    ):
        return False
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def best_row(rows: Sequence[RestartResult]) -> RestartResult:
    """Return the row with the lowest objective; the first row if no row has a finite objective."""
    return min(rows, key=lambda row: row.objective)


def has_failed(rows: Sequence[RestartResult]) -> bool:
    """Return whether no row has a finite objective."""
    return not math.isfinite(best_row(rows).objective)


def best_of(
    rows: Sequence[RestartResult], labels: Tensor, engine: str, remarks: tuple[str, ...] = ()
) -> Reconstruction:
    """Return the reconstruction of the row with the lowest objective; no example if no objective is finite."""
    best, count = best_row(rows), 0 if has_failed(rows) else len(labels)
    close = sum(row.objective <= max(best.objective, _CONVERGED * best.objective) for row in rows)
    return Reconstruction(
        inputs=best.inputs[:count],
        labels=labels[:count].clone(),
        masks=None if not count else tuple(best.masks) or None,
        objective=best.objective,
        iterations=sum(len(row.objectives) for row in rows),
        best_iteration=best.iteration,
        history=_thin(best.objectives),
        stop_reason=best.stop_reason,
        notes=(f"gradients compared by the {engine} path", *remarks),
        diagnostics={"starts": len(rows), "starts that reached the lowest objective": close},
    )


def _thin(objectives: list[float]) -> tuple[tuple[int, float], ...]:
    stride = max(1, len(objectives) // _HISTORY_POINTS)
    return tuple((i + 1, value) for i, value in enumerate(objectives) if i % stride == 0 or i + 1 == len(objectives))
