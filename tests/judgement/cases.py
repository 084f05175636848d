"""Figures, findings and guarantees with chosen intervals."""

from fedsim.judgement.limits import MEMBERS_FOUND, Figure
from fedsim.record import Finding, GuaranteeRecord, Interval


def interval(value: float, low: float | None, high: float | None, n: int = 100) -> Interval:
    return Interval(value=value, low=low, high=high, n=n)


def figure(label: str, value: float, low: float | None, high: float | None, **own: object) -> Figure:
    return Figure(label, interval(value, low, high))._replace(**own)


def finding(label: str, value: float, low: float, high: float, **own: object) -> Finding:
    rate = interval(value, low, high)
    made = Finding(question="membership", label=label, metric="auc", value=rate, extra_metrics={MEMBERS_FOUND: rate})
    return made.model_copy(update=own)


def guarantee(epsilon: float, *, holds_against_server: bool = True) -> GuaranteeRecord:
    return GuaranteeRecord(
        source="dp-sgd", epsilon=epsilon, delta=1e-5, rdp_epsilon=epsilon, accountant="PRV", unit="record",
        adjacency="add-or-remove", noise_multiplier=1.0, sampling_rate=0.1, steps=10, composition="all rounds",
        adversary="the server" if holds_against_server else "clients", holds_against_server=holds_against_server,
    )  # fmt: skip
