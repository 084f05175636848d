"""step-by-step: solve several local steps of SGD exactly: separate the examples of all steps, then replay the training.

Idea: the inputs of a first dense layer or patch projection do not depend on the weights. The examples of all steps
    therefore form a sum of outer products, which an exact attack separates. The span of the second layer shows the
    weights at which an example was used. Masks and labels follow layer by layer, and then the weights of every step.
Equation: theta_0 - theta_K = a sum_k w_k g(theta_k; S_k), w_k = 1 + m + ... + m^(K-k-1); x is in S_k if act(W_k x +
    b_k) is in the span of the second layer's rows. Steps give theta_k, theta_k give better steps.
Assumes: honest-but-curious server, SGD without or with momentum m; batch size and dropout rates known; each example
    used once.
Recovers: exact images and labels of every step, in the order of the steps; for a transformer, the images without order.
Fails: Adam; more examples in all steps than zeros separate; a first layer that does not read the pixels. If the steps
    are not found, images are exact with a bias in the first layer, and have an inexact scale without a bias.
Source: this project, after DAGER's steps, arXiv 2405.15586; the separation is SPEAR++, arXiv 2510.24200.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field

from attacks.core.gradient_distance import may_be_exact
from attacks.core.inner_attack import inner_attack
from attacks.core.labels import examples_of
from attacks.core.layers import first_linear, layer_behind
from attacks.core.outlooks import outlook_of
from attacks.core.patches import patch_projection
from attacks.core.preconditions import gradient_steps_only
from attacks.core.results import NothingFound
from attacks.core.tolerances import MATCHES
from attacks.local_steps._multistep import batch_sizes, sites_for
from attacks.local_steps._path import Path, follow
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Knowledge, Observation, OnStep, Reconstruction

_DENSE: tuple[str, dict[str, Any]] = ("sparse-dictionary", {"max_outside_share": 0.5})  # deeper layers have changed
_PATCHES: tuple[str, dict[str, Any]] = ("patch-dictionary", {})


class StepByStepConfig(Config):
    """Settings of step-by-step."""

    attack: str = Field(
        default="",
        description="the exact attack that separates the examples; by default sparse-dictionary for a dense first "
        "layer, patch-dictionary for a transformer",
    )
    options: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        description="settings of that attack; by default it bears that deeper layers have moved",
    )


@final
@attack("step-by-step", summary="exact batches of several local steps of SGD", tier="core", related="2405.15586")
class StepByStep(Attack[StepByStepConfig]):
    """Separates the examples of all steps, and replays the client's training on them."""

    effort: ClassVar[Effort] = "search"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"batch-size", "dropout-rates"})
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.5, "bias": True},
        "federation": {
            "algorithm": "fedavg",
            "local_steps": 2,
            "batch_size": 2,
            "optimizer": {"name": "sgd", "learning_rate": 0.05},
        },
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse single steps, other optimizers, repeated examples, and models without a second dense layer."""
        if observation.local_steps == 1:
            return "the update is a single step; the batch separation attack alone solves it"
        if sum(batch_sizes(observation)) != examples_of(observation) or not all(batch_sizes(observation)):
            return "the client passes over its examples more than once, or over none in some step"
        if observation.hidden_parameters:
            return "tensors of the update are hidden, so steps cannot be compared with it"
        first = first_linear(observation)
        if first is None and patch_projection(observation) is None:
            return "no linear layer sees the flattened input or its patches"
        if first is not None and layer_behind(observation, first.name) is None:
            return f"no linear layer behind '{first.name}' separates the steps"
        return gradient_steps_only(observation) or self._cannot_separate(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect the separation of the examples, and a replay of the steps."""
        return outlook_of(observation, 700.0, 0.7, "zeros separate the examples of all steps")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Separate the examples, then replay the training."""
        as_one = _as_one_step(observation)
        guess = self._inner(observation)(as_one, generator, on_step)
        missing = examples_of(observation) - len(guess.inputs)
        if missing or first_linear(observation) is None:
            return replace(guess, masks=None, is_exact=False, notes=(*guess.notes, "the steps were not computed"))
        try:
            return _report(observation, guess, follow(observation, as_one, guess.inputs))
        except NothingFound as reason:
            return replace(guess, masks=None, is_exact=False, notes=(*guess.notes, str(reason)))

    def _cannot_separate(self, observation: Observation) -> str | None:
        return self._inner(observation).not_applicable(_as_one_step(observation))

    def _inner(self, observation: Observation) -> Attack[Any]:
        name, options = _DENSE if first_linear(observation) is not None else _PATCHES
        return inner_attack("step-by-step", self.config.attack or name, self.config.options or options)


def _as_one_step(observation: Observation) -> Observation:
    examples = examples_of(observation)
    return replace(
        observation,
        local_steps=1,
        learning_rate=observation.learning_rate * observation.local_steps,
        optimizer_settings={},
        batch_size=examples,
        batch_sizes=(examples,),
        sites=sites_for(observation, examples),
        masks=None,
    )


def _report(observation: Observation, guess: Reconstruction, path: Path) -> Reconstruction:
    order, objective = torch.cat(path.steps), path.residual**2 / 2.0
    is_explained = objective < MATCHES
    return replace(
        guess,
        inputs=path.inputs[order],
        labels=path.labels[order],
        masks=None,
        objective=objective,
        history=((guess.iterations, objective),),
        stop_reason="all steps solved"
        if is_explained
        else "all examples separated, but the steps do not give the update",
        notes=(
            f"examples are in the order of {len(path.steps)} steps",
            "objective: half the squared share of the update that the repeated steps do not give",
            *guess.notes,
        ),
        diagnostics={
            **guess.diagnostics,
            "share of the update left": path.residual,
            "passes over the steps": float(path.passes),
        },
        is_exact=is_explained and may_be_exact(observation, objective),
    )
