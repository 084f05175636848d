"""Attacks that `auto` may try on an observation, in its order. `fedsim which` lists the same candidates."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from fedsim.core import registry
from fedsim.core.errors import describe_exception
from fedsim.core.hooks import Attack, CostEstimate, Effort
from fedsim.core.types import Observation

TRIED_EFFORTS: tuple[Effort, ...] = get_args(Effort)[:-1]
"""Efforts of the attacks that `auto` tries, from cheap to expensive: all but reference."""


@dataclass(frozen=True)
class Candidate:
    """An attack that `auto` may try on an observation.

    Attributes:
        name: name of the attack.
        attack: the attack, with its settings for the budget.
        estimate: its expected cost and success; None if the attack failed to state them.
        failure: the error of the estimate, as a predicate of the attack's name; empty if there was none.
        twin: name of another candidate that runs the same search on the observation; empty if there is none.
    """

    name: str
    attack: Attack[Any]
    estimate: CostEstimate | None
    failure: str = ""
    twin: str = ""

    @property
    def price(self) -> float:
        """Expected seconds per exact answer; infinite without an estimate."""
        return math.inf if self.estimate is None else self.estimate.price

    def refusal(self, observation: Observation) -> str:
        """Return why the attack is not tried, as a predicate of its name; empty if it applies."""
        if self.twin:
            return f"runs the same search as {self.twin} on this update"
        try:
            verdict = self.attack.fits(observation)
        except Exception as error:  # a bug in an attack must not hide the guesses of the others
            return _failure(error)
        return "" if verdict.holds else f"does not apply: {verdict.reason}"


def rank_candidates(
    observation: Observation, gradients: int, leave_out: Container[str] = (), *, inverts_augmentation: bool = False
) -> Iterator[Candidate]:
    """Yield attacks ordered by effort, then by expected seconds per exact answer, whether or not they apply.

    Attacks of an effort are asked for their estimates when the attacks of lesser effort are used up.

    Args:
        observation: an observation without its unreliable tensors.
        gradients: approximate number of gradients of each attack that descends.
        leave_out: names of attacks to skip.
        inverts_augmentation: whether attacks are yielded that invert a known change of the batch, or the others.
    """
    methods = registry.methods("attack", Attack).items()
    known = {name: method for name, method in methods if method.tier != "baseline" and name not in leave_out}
    for effort in TRIED_EFFORTS:
        group: list[Candidate] = []
        for name, method in known.items():
            kind = cast("type[Attack[Any]]", method.make)
            if kind.effort == effort and kind.inverts_augmentation is inverts_augmentation:
                settings = kind.settings_for_budget(gradients)
                candidate = _estimate(name, method.make(method.config.model_validate(settings)), observation)
                group.append(candidate if candidate.twin in known else replace(candidate, twin=""))
        yield from sorted(group, key=lambda candidate: candidate.price)


def _estimate(name: str, attack: Attack[Any], observation: Observation) -> Candidate:
    try:
        return Candidate(name, attack, attack.outlook(observation), twin=attack.same_search(observation) or "")
    except Exception as error:  # a bug in an attack must not hide the guesses of the others
        return Candidate(name, attack, None, _failure(error))


def _failure(error: Exception) -> str:
    return f"failed: {describe_exception(error)}"
