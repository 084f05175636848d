"""What a person of the site wants to know of its ledger."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.guard.policy import GuardPolicy
from fedsim.privacy.accounting import epsilon, in_rounds
from fedsim.privacy.ledger import Ledger, LedgerEntry, open_reservations

_MOST_ROUNDS = 10_000  # that are counted ahead


@dataclass(frozen=True)
class RunShare:
    """What one run has taken.

    Attributes:
        run: number of the run.
        app: SHA-256 of its app.
        rounds: messages on which its app was run.
        alone: epsilon that they cost by themselves; those of several runs do not add up.
        last: time of the last of them.
    """

    run: str
    app: str
    rounds: int
    alone: float
    last: str


@dataclass(frozen=True)
class Status:
    """Where a subject's budget stands.

    Attributes:
        subject: whose data.
        spent: epsilon so far, at the policy's delta.
        allowed: epsilon that may be spent.
        delta: of both.
        rounds_left: how many more rounds the policy's defenses can run.
        broken_off: rounds that were written down and not answered: at work, or broken off. They count.
        cut: lines that a kill cut off.
        entries: number of the last entry of the ledger. To be noted: only who knows it sees that the end is missing.
        runs: what each run has taken, the oldest first.
    """

    subject: str
    spent: float
    allowed: float
    delta: float
    rounds_left: int
    broken_off: int
    cut: int
    entries: int
    runs: tuple[RunShare, ...]


def status_of(policy: GuardPolicy) -> Status:
    """Return where the budget of a policy's subject stands.

    Raises:
        FedsimError: the ledger cannot be read, or was changed.
    """
    entries = Ledger.open(policy.ledger, policy.key).entries()
    rounds = [entry for entry in entries if entry.kind == "reserved" and entry.subject == policy.subject]
    still_open = open_reservations(entries)
    return Status(
        subject=policy.subject,
        spent=_epsilon(rounds, policy.budget.delta),
        allowed=policy.budget.epsilon,
        delta=policy.budget.delta,
        rounds_left=_rounds_left(policy, rounds),
        broken_off=sum(entry.number in still_open for entry in rounds),
        cut=sum(entry.kind == "cut" for entry in entries),
        entries=len(entries),
        runs=tuple(_share(run, rounds, policy.budget.delta) for run in dict.fromkeys(e.about["run"] for e in rounds)),
    )


def _rounds_left(policy: GuardPolicy, rounds: list[LedgerEntry]) -> int:
    """Return how many further rounds fit, by bisection."""
    mechanisms = [mod.mechanism for mod in policy.mods() if mod.mechanism is not None]
    before = [part for entry in rounds for part in entry.spent]

    def fits(count: int) -> bool:
        after = [*before, *(in_rounds(mechanism, count) for mechanism in mechanisms)]
        return epsilon(after, policy.budget.delta).value <= policy.budget.epsilon

    low, high = 0, _MOST_ROUNDS + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _share(run: str, rounds: list[LedgerEntry], delta: float) -> RunShare:
    those = [entry for entry in rounds if entry.about["run"] == run]
    return RunShare(run, those[-1].about["app"], len(those), _epsilon(those, delta), those[-1].at)


def _epsilon(rounds: list[LedgerEntry], delta: float) -> float:
    return epsilon([part for entry in rounds for part in entry.spent], delta).value
