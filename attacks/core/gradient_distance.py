"""Gradient distance between a guess and the update, without use of the ground truth."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from attacks.core.client_gradient import client_gradient
from attacks.core.defense_facts import inexact, wire_of
from attacks.core.results import are_known
from attacks.core.tolerances import MATCHES
from fedsim.core.nets.gradients import cosine_distance
from fedsim.core.types import Masks, Observation


class MeasuredObjective(NamedTuple):
    """An attack's objective at its guess, and a sentence that describes the objective."""

    objective: float
    meaning: str


def verdict(
    observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks | None, residual: tuple[float, str]
) -> MeasuredObjective:
    """Compare whole gradients if the client's forward pass can be repeated; else return a residual.

    Args:
        observation: inputs of the attack.
        inputs: guessed examples, shape (B, *shape).
        labels: one per example, in the order of `inputs`; some may be unknown.
        masks: one per site, or None if some are unknown.
        residual: the residual of the attack's own equations, and its name.
    """
    if masks is None or not knows_rates(observation) or not are_known(labels):
        return MeasuredObjective(residual[0], f"objective: {residual[1]}")
    distance = gradient_distance(observation, inputs, labels, masks)
    return MeasuredObjective(distance, "objective: 1 - cosine of the whole gradient")


def may_be_exact(observation: Observation, objective: float) -> bool:
    """Return whether a solution may be called exact: it explains an update that no known defense disturbs.

    A residual alone does not show this: the signs of a matrix of rank one have rank one as well. If tensors are hidden,
    labels may be wrong although the inputs are right, so the objective is ignored.
    """
    return inexact(observation) is None and (objective < MATCHES or bool(observation.hidden_parameters))


def doubts(observation: Observation) -> tuple[str, ...]:
    """Return a note on the known inexactness of the update, or an empty tuple."""
    reason = inexact(observation)
    return () if reason is None else (f"the equations do not hold exactly: {reason}",)


def gradient_distance(observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks) -> float:
    """Return 1 - cosine, in [0, 2], between the gradient at the guess and the observed gradient.

    With known defenses, only the part that they send is compared.

    Args:
        observation: its sites must have dropout rates, if possible the client's.
        inputs: guessed examples, shape (B, *shape).
        labels: one per example, in the order of `inputs`.
        masks: one per site.
    """
    wire, gradient = wire_of(observation), client_gradient(observation, inputs, labels, masks)
    theirs = [wire.as_compared(observation.update.tensors[name]) for name in gradient]
    ours = [wire.as_sent(our, their) for our, their in zip(gradient.values(), theirs, strict=True)]
    return cosine_distance(ours, theirs)


def knows_rates(observation: Observation) -> bool:
    """Return whether sites and model have dropout rates that the attacker assumes to be the client's.

    With `threat.rate_error` they are wrong without the attacker's knowledge: the attacker's forward pass differs from
    the client's, and the objective at the ground truth is not zero.
    """
    return not observation.sites or "dropout-rates" in observation.threat.knows
