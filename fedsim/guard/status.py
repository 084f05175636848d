"""Status of a site's ledger for its operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.guard.policy import EVALUATE, GuardPolicy
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.ledger import Ledger, LedgerEntry, open_reservations

_MOST_ROUNDS = 10_000  # that are counted ahead


@dataclass(frozen=True)
class RunShare:
    """Budget spent by a run.

    Attributes:
        run: number of the run.
        app: SHA-256 of its app.
        rounds: number of its training messages.
        evaluations: number of its evaluations, also of those that sent no figure.
        alone: epsilon of its messages by themselves; epsilons of several runs do not add up.
        last: time of its last message.
    """

    run: str
    app: str
    rounds: int
    evaluations: int
    alone: float
    last: str


@dataclass(frozen=True)
class Status:
    """Status of a subject's budget.

    Attributes:
        subject: data subject.
        spent: epsilon so far, at the policy's delta.
        allowed: epsilon that may be spent.
        delta: of both.
        rounds_left: number of rounds of a further run within the budget, each with a training and an evaluation.
        unanswered_rounds: recorded rounds without a sent reply: running or aborted. They count.
        truncated_lines: number of lines truncated by a kill.
        entries: number of the last entry of the ledger. Note it: only this number reveals a removed end.
        runs: budget spent by each run, the oldest first.
    """

    subject: str
    spent: float
    allowed: float
    delta: float
    rounds_left: int
    unanswered_rounds: int
    truncated_lines: int
    entries: int
    runs: tuple[RunShare, ...]


def status_of(policy: GuardPolicy) -> Status:
    """Return the budget status of a policy's subject.

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
        rounds_left=rounds_within_budget(policy, [part for entry in rounds for part in entry.spent]),
        unanswered_rounds=sum(entry.number in still_open for entry in rounds),
        truncated_lines=sum(entry.kind == "cut" for entry in entries),
        entries=len(entries),
        runs=tuple(_share(run, rounds, policy.budget.delta) for run in dict.fromkeys(e.about["run"] for e in rounds)),
    )


def rounds_within_budget(policy: GuardPolicy, before: Sequence[Spent]) -> int:
    """Return the number of rounds of a run that the budget allows after the steps before, at most 10,000."""

    def fits(count: int) -> bool:
        return epsilon([*before, *policy.cost(count)], policy.budget.delta).value <= policy.budget.epsilon

    low, high = 0, _MOST_ROUNDS + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _share(run: str, rounds: list[LedgerEntry], delta: float) -> RunShare:
    entries = [entry for entry in rounds if entry.about["run"] == run]
    evaluations = sum(entry.about.get("category") == EVALUATE for entry in entries)
    return RunShare(
        run=run,
        app=entries[-1].about["app"],
        rounds=len(entries) - evaluations,
        evaluations=evaluations,
        alone=_epsilon(entries, delta),
        last=entries[-1].at,
    )


def _epsilon(rounds: list[LedgerEntry], delta: float) -> float:
    return epsilon([part for entry in rounds for part in entry.spent], delta).value
