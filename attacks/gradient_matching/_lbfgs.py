"""The search of DLG, iDLG and CPL: L-BFGS on dummies, restarted if a start diverges.

The objective is |g - g*|^2 over all parameters plus the attack's penalty. Dropout masks of known rates are unknowns
like the dummy, as logits, since L-BFGS cannot project; with unknown rates the search runs without dropout. Gradients
are computed explicitly: close to the truth the differences of the ghost comparison would be rounding errors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import searched_sites
from attacks.core.matching.attack import GradientSearchConfig, best_of
from attacks.core.matching.comparison import GeneralComparison
from attacks.core.matching.descent import RestartResult
from attacks.core.matching.distances.squared import SquaredDistance
from attacks.core.matching.optimizers import RELATIVE_IMPROVEMENT
from attacks.core.matching.simulated_client import SimulatedClient, simulated_client
from attacks.core.matching.starts import first_inputs
from attacks.core.matching.terms import DistanceConfig
from attacks.core.matching.unknown_masks import OptimisedMasks
from attacks.core.matching.unknowns import MASKS, SearchProgress, Unknowns, Values, flat, map_tensors
from attacks.core.preconditions import one_gradient_only
from fedsim.core.hooks import Attack
from fedsim.core.types import Masks, Observation, OnStep, Reconstruction, Step, View

_DISTANCE = SquaredDistance(DistanceConfig())
_KINKED = ("ReluBackward", "LeakyReluBackward", "HardtanhBackward", "PreluKernelBackward")


class LbfgsConfig(GradientSearchConfig):
    """Settings of L-BFGS."""

    max_iterations: int = Field(default=300, ge=1, description="maximum number of iterations per start")
    inner: int = Field(default=20, ge=1, description="most steps within an iteration")
    learning_rate: float = Field(default=1.0, gt=0, description="factor on the length of L-BFGS's steps")
    line_search: Literal["none", "strong-wolfe"] = Field(
        default="strong-wolfe", description="none: every step has the same length, and many starts diverge"
    )
    remembered: int = Field(default=100, ge=1, description="steps from which L-BFGS estimates the curvature")
    restarts: int = Field(default=10, ge=0, description="restarts, each after a start that diverged")
    diverged: float = Field(
        default=1e-2, gt=0, description="a start that ends with more than this share of |g*|^2 counts as diverged"
    )
    threshold: float = Field(default=1e-10, ge=0, description="stop when |g - g*|^2 is below this share of |g*|^2")
    patience: int = Field(
        default=10, ge=1, description="stop after this many iterations that did not improve the objective by 0.01 %"
    )


ConfigT = TypeVar("ConfigT", bound=LbfgsConfig)


@dataclass
class _Attempt(RestartResult):
    """The result of one start: the best dummy, its labels, and its squared distance as a share of |g*|^2."""

    labels: Tensor | None = None
    share: float = torch.inf


class LbfgsAttack(Attack[ConfigT]):
    """An attack that matches a single gradient by L-BFGS. Subclasses implement `known_labels`."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return settings without restarts, and with as many iterations as the inner steps allow."""
        return {"max_iterations": max(1, gradients // LbfgsConfig().inner), "restarts": 0}

    @abstractmethod
    def known_labels(self, observation: Observation) -> Tensor | None:
        """Return the labels (B,), or None if they are unknowns of the search."""

    def penalty(self, client: SimulatedClient, inputs: Tensor, masks: Masks, labels: Tensor) -> Tensor | float:
        """Return the attack's addition to the squared distance, for one row."""
        return 0.0

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Restart until a start converges, and return the best result."""
        client = simulated_client(observation, observation.sites, True)
        problem = _Problem(
            client,
            GeneralComparison(client, [observation]),
            Unknowns((OptimisedMasks(sites=searched_sites(observation), begin="mean", relaxation="sigmoid"),)),
            self.known_labels(observation),
            self.penalty,
        )
        attempts: list[_Attempt] = []
        while len(attempts) <= self.config.restarts and not any(self._is_good(attempt) for attempt in attempts):
            variables = self._first(observation, problem, generator)
            attempts.append(_Descent(self.config, problem, variables, len(attempts)).run(on_step))
        best = min(attempts, key=lambda attempt: attempt.objective)
        assert best.labels is not None
        guess = best_of(attempts, best.labels, problem.comparison.name, _remarks(observation))
        return replace(guess, diagnostics=self._facts(attempts, best))

    def _is_good(self, attempt: _Attempt) -> bool:
        return attempt.share <= self.config.diverged

    def _facts(self, attempts: list[_Attempt], best: _Attempt) -> dict[str, float]:
        return {
            "starts": len(attempts),
            "starts that diverged": sum(not self._is_good(attempt) for attempt in attempts),
            "squared distance relative to the gradient": best.share,
        }

    def _first(self, observation: Observation, problem: _Problem, generator: torch.Generator) -> _Variables:
        examples = observation.batch_size or 1
        like = problem.comparison.like
        shape = (examples, *observation.spec.shape)
        inputs = first_inputs(self.config.start, shape, self.config.pattern, generator)
        logits = torch.randn((examples, observation.spec.classes), generator=generator)
        masks = map_tensors(problem.unknowns.first(generator), lambda mask: mask[None].to(like).requires_grad_())
        return _Variables(
            inputs.to(like).requires_grad_(),
            logits.to(like).requires_grad_() if problem.labels is None else None,
            masks,
        )


@dataclass(frozen=True)
class _Variables:
    """Unknowns: inputs (B, *shape), label logits (B, K) or None, and mask logits (1, *site.shape)."""

    inputs: Tensor
    labels: Tensor | None
    unknowns: Values

    def all(self) -> list[Tensor]:
        return [self.inputs, *([] if self.labels is None else [self.labels]), *flat(self.unknowns)]


@dataclass(frozen=True)
class _Problem:
    client: SimulatedClient
    comparison: GeneralComparison
    unknowns: Unknowns
    labels: Tensor | None
    penalty: Callable[[SimulatedClient, Tensor, Masks, Tensor], Tensor | float]

    def masks(self, variables: _Variables) -> Masks:
        """Return the masks of a forward pass, shape (1, *site.shape) each."""
        return self.unknowns.forward_values(variables.unknowns, SearchProgress()).get(MASKS, ())

    def values(self, variables: _Variables) -> tuple[Tensor, Tensor]:
        """Return the objective, and the squared distance as a share of |g*|^2; both scalars."""
        masks = self.masks(variables)
        labels = self.labels if variables.labels is None else variables.labels.softmax(1)
        assert labels is not None
        labels = labels.to(variables.inputs.device)
        gradients = self.comparison.gradients(variables.inputs[None], masks, labels[None], [0])
        distance = _DISTANCE(gradients)[0]
        penalty = self.penalty(self.client, variables.inputs, tuple(mask[0] for mask in masks), labels)
        return distance + penalty, distance.detach() / gradients.observed_squared_norms().sum()

    def answer(self, variables: _Variables) -> Tensor:
        """Return the labels (B,) of the variables."""
        if variables.labels is None:
            assert self.labels is not None
            return self.labels
        return variables.labels.detach().argmax(1)


class _Descent:
    """The L-BFGS descent of one start."""

    def __init__(self, config: LbfgsConfig, problem: _Problem, variables: _Variables, number: int) -> None:
        from torch.optim import LBFGS  # noqa: PLC0415 - takes a second, which other attacks need not pay

        self._config = config
        self._problem = problem
        self._variables = variables
        self._optimizer = LBFGS(
            variables.all(),
            lr=config.learning_rate,
            max_iter=config.inner,
            history_size=config.remembered,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn=None if config.line_search == "none" else "strong_wolfe",
        )
        start = variables.inputs.detach().clone()
        self._attempt = _Attempt(0, number, start, (), labels=problem.answer(variables))
        self._lowest = torch.inf
        self._plateau = (torch.inf, 0)

    def run(self, on_step: OnStep) -> _Attempt:
        """Descend until a stop rule holds; iterations are counted across starts."""
        attempt, config = self._attempt, self._config
        total = (1 + config.restarts) * config.max_iterations
        for iteration in range(1, config.max_iterations + 1):
            self._lowest = torch.inf
            self._optimizer.step(lambda iteration=iteration: self._evaluate(iteration))
            attempt.objectives.append(self._lowest)
            if self._lowest < self._plateau[0] * (1.0 - RELATIVE_IMPROVEMENT):
                self._plateau = (self._lowest, iteration)
            guess = self._variables.inputs.detach()
            number = attempt.start * config.max_iterations + iteration
            on_step(Step(attempt.start, number, total, self._lowest, attempt.objective, guess))
            if not bool(guess.isfinite().all()) or self._lowest == torch.inf:
                attempt.stop_reason = "objective is not a number"
            elif attempt.share < config.threshold:
                attempt.stop_reason = "objective below threshold"
            elif iteration - self._plateau[1] >= config.patience:
                attempt.stop_reason = "no improvement"
            else:
                continue
            break
        return attempt

    def _evaluate(self, iteration: int) -> Tensor:
        """Closure of L-BFGS: write unclipped gradients into `.grad`, and keep the best dummy."""
        variables = self._variables.all()
        objective, share = self._problem.values(self._variables)
        gradients = torch.autograd.grad(objective, variables, materialize_grads=True)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.grad = gradient
        value = float(objective.detach())
        self._lowest = min(self._lowest, value)
        if value < self._attempt.objective:
            self._keep(iteration, value, float(share))
        return objective.detach()

    @torch.no_grad()
    def _keep(self, iteration: int, value: float, share: float) -> None:
        attempt = self._attempt
        attempt.objective, attempt.iteration, attempt.share = value, iteration, share
        attempt.inputs = self._variables.inputs.detach().clone()
        attempt.masks = tuple(mask[0].clone() for mask in self._problem.masks(self._variables))
        attempt.labels = self._problem.answer(self._variables)


def _remarks(observation: Observation) -> tuple[str, ...]:
    if not _has_kinks(observation):
        return ()
    return ("the model has activations without a second derivative (ReLU): L-BFGS is misled",)


def _has_kinks(observation: Observation) -> bool:
    """Return whether a forward pass uses a piecewise linear activation."""
    like = next(observation.model.parameters())
    example = torch.zeros((2, *observation.spec.shape), dtype=like.dtype, device=like.device)
    client = simulated_client(observation, observation.sites, True)
    nodes = [client.outputs(example.requires_grad_(), (), {}).grad_fn]
    seen: set[object] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name().startswith(_KINKED):
            return True
        seen.add(node)
        nodes += [parent for parent, _ in node.next_functions]
    return False
