"""Overview of the attacks on an observation: those that apply, in the order of `auto`, and why the others do not.

The conditions that would make a refused attack apply are found by trial: the same client is observed with another batch
size, with another grant, or without dropout, and the attack is asked again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedsim.core import registry
from fedsim.core.candidates import Candidate, rank_candidates
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Attack
from fedsim.core.hooks.attacks import without_unreliable_tensors
from fedsim.core.types import Knowledge, Observation

GRADIENTS = 2000  # the default budget of `auto`
_LIKELY = 0.3  # chance from which an exact answer is expected
_SEVERAL = 4  # examples of the batch on which attacks on batches are tried, if the batch is a single example
_MINUTE = 100.0  # seconds from which a duration is given in minutes


@dataclass(frozen=True)
class Case:
    """Conditions under which a client's update is observed.

    Attributes:
        batch_size: examples behind the update.
        knows: granted knowledge.
        has_dropout: whether the model keeps its dropout rates; otherwise all are 0.
    """

    batch_size: int
    knows: frozenset[Knowledge]
    has_dropout: bool = True


Observe = Callable[[Case], Observation]
"""Computes a client's update under a case and returns its observation.

Raises:
    FedsimError: the case is impossible, for example for lack of examples.
"""


@dataclass(frozen=True)
class AttackRow:
    """An attack of an overview.

    Attributes:
        name: name of the attack.
        effort: class of its cost, as in `fedsim.core.hooks.Effort`.
        returns: its output, from its description.
        relies_on: its conditions, from its description.
        seconds: expected processor seconds; None if the attack failed to state them.
        chance: probability that it explains the update exactly; None as for `seconds`.
        reason: source of seconds and chance; empty if the attack failed to state them.
        refusal: why `auto` does not try it, as a predicate of its name; empty if it applies.
        applies_with: single changes of the conditions, each of which would make it apply.
    """

    name: str
    effort: str
    returns: str
    relies_on: str
    seconds: float | None
    chance: float | None
    reason: str = ""
    refusal: str = ""
    applies_with: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether an exact answer is expected: descents return estimates."""
        return self.effort != "descent" and self.chance is not None and self.chance >= _LIKELY


@dataclass(frozen=True)
class AttackOverview:
    """Attacks on a client's update.

    Attributes:
        batch_size: examples behind the update.
        noun: name of an example.
        applicable: attacks that apply, in the order of `auto`.
        refused: the other attacks that `auto` may try, in its order.
        never_tried: names of baselines and reference attacks, which `auto` never tries.
    """

    batch_size: int
    noun: str
    applicable: tuple[AttackRow, ...]
    refused: tuple[AttackRow, ...]
    never_tried: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        batch = f"a batch of {self.batch_size}"
        if not self.applicable:
            return f"No attack that `auto` tries applies to {batch}."
        number = len(self.applicable)
        count = f"{number} attack{'s apply' if number > 1 else ' applies'} to {batch}"
        best = next((row for row in self.applicable if row.is_exact), None)
        if best is not None and best.seconds is not None:
            return f"{count}; expect exact {self.noun}s from {best.name} within {describe_duration(best.seconds)}."
        return f"{count}; estimates of {self.noun}s at best."

    def to_tables(self) -> dict[str, Any]:
        """Return the overview as nested dictionaries and lists, with its sentence."""
        return {"sentence": self.sentence, **asdict(self)}


def describe_duration(seconds: float) -> str:
    """Return an upper limit of a duration in words, rounded up to a second or a minute."""
    if seconds <= 1.0:
        return "a second"
    if seconds < _MINUTE:
        return f"{int(-(-seconds // 1))} seconds"
    return f"{int(-(-seconds // 60))} minutes"


def overview_of(observe: Observe, case: Case, possible: Sequence[Knowledge]) -> AttackOverview:
    """Return the overview of the attacks under a case.

    Args:
        observe: computes the client's update and returns the observation of a case.
        case: batch size and grants.
        possible: knowledge that a threat model could grant for the client's task.

    Raises:
        FedsimError: the client cannot compute an update of this batch size.
    """
    observation = without_unreliable_tensors(observe(case))
    refusals = [(candidate, candidate.refusal(observation)) for candidate in _candidates(observation)]
    refused = [candidate for candidate, refusal in refusals if refusal]
    remedies = _remedies(observe, case, refused, _changes(case, observation, possible))
    rows = [_row(candidate, refusal, remedies.get(candidate.name, ())) for candidate, refusal in refusals]
    names = {row.name for row in rows}
    return AttackOverview(
        case.batch_size,
        observation.task.noun_of(observation.spec),
        tuple(row for row in rows if not row.refusal),
        tuple(row for row in rows if row.refusal),
        tuple(sorted(registry.methods("attack", Attack).keys() - names)),
    )


def _candidates(observation: Observation) -> Iterator[Candidate]:
    for inverts_augmentation in (False, True):
        yield from rank_candidates(observation, GRADIENTS, inverts_augmentation=inverts_augmentation)


def _changes(case: Case, observation: Observation, possible: Sequence[Knowledge]) -> Iterator[tuple[str, Case]]:
    """Yield single changes of a case, in words and as a case."""
    size = 1 if case.batch_size > 1 else _SEVERAL
    yield f"a batch of {size}", replace(case, batch_size=size)
    for knowledge in possible:
        if knowledge not in case.knows:
            yield f"{knowledge} granted", replace(case, knows=case.knows | {knowledge})
    if any(site.rate for site in observation.sites):
        yield "dropout off", replace(case, has_dropout=False)


def _remedies(
    observe: Observe, case: Case, refused: Sequence[Candidate], changes: Iterator[tuple[str, Case]]
) -> dict[str, tuple[str, ...]]:
    """Return the changes that would make each refused attack apply, by name."""
    found: dict[str, tuple[str, ...]] = {
        candidate.name: ("a malicious server",) for candidate in refused if candidate.attack.crafts_model
    }
    open_attacks = [candidate for candidate in refused if not candidate.attack.crafts_model]
    for words, changed in changes:
        try:
            observation = without_unreliable_tensors(observe(changed))
        except FedsimError:  # for example too few examples for a larger batch
            continue
        for candidate in open_attacks:
            if not candidate.refusal(observation):
                found[candidate.name] = (*found.get(candidate.name, ()), words)
    return found


def _row(candidate: Candidate, refusal: str, applies_with: tuple[str, ...]) -> AttackRow:
    doc, estimate = registry.get("attack", candidate.name).doc, candidate.estimate
    return AttackRow(
        candidate.name,
        candidate.attack.effort,
        read_heading(doc, "Recovers"),
        read_heading(doc, "Assumes"),
        None if estimate is None else estimate.seconds,
        None if estimate is None else estimate.chance,
        "" if estimate is None else estimate.reason,
        refusal,
        applies_with,
    )


def read_heading(doc: str, heading: str) -> str:
    """Return the text below a heading of a method's description, in a line; empty if the heading is missing."""
    found = re.search(rf"^{heading}:(.*?)(?=^\S|\Z)", doc, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""
