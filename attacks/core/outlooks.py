"""Outlooks of attacks: gradients counted from their settings, and the chance of an exact answer under defenses."""

from __future__ import annotations

from attacks.core.defense_facts import inexact
from attacks.core.gradient_cost import gradient_seconds
from fedsim.core.hooks import CostEstimate
from fedsim.core.types import Observation

GRADIENTS_OF_A_STEP = 8.0
"""Gradients that cost as much as a step of a matching attack: gradient, its derivative, priors, update, progress."""

_DISTURBED = 1e-4  # share of the chance that is left if a known defense disturbs the update


def outlook_of(
    observation: Observation, gradients: float, chance: float, because: str, *, rows: int = 1, seconds: float = 0.0
) -> CostEstimate:
    """Return the outlook of an attack that needs an exact update.

    Args:
        observation: inputs of the attack.
        gradients: number of gradients of the batch that cost as much as the attack.
        chance: probability of an exact answer if nothing disturbs the update.
        because: reason of the chance, as a clause.
        rows: guesses whose gradients are computed at once.
        seconds: processor seconds of work that does not depend on the model.
    """
    disturbance = inexact(observation)
    if disturbance is not None:
        chance, because = _DISTURBED * chance, f"{because}; {disturbance}"
    return tolerant_outlook(observation, gradients, chance, because, rows=rows, seconds=seconds)


def tolerant_outlook(
    observation: Observation, gradients: float, chance: float, because: str, *, rows: int = 1, seconds: float = 0.0
) -> CostEstimate:
    """Return the outlook of an attack that known defenses do not disturb; arguments as for `outlook_of`."""
    spent = gradients * gradient_seconds(observation, rows) + seconds
    cost = f"costs {gradients:,.0f} gradients" if gradients >= 1 else "needs no gradient of the model"
    return CostEstimate(spent, chance, f"{cost}; {because}")
