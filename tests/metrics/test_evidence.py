"""A limit is judged on the interval; what a failed search says depends on whether it converged."""

import pytest

from fedsim.metrics.evidence import held, is_evidence, state_of, updates_to_decide
from fedsim.metrics.statistics import wilson
from fedsim.metrics.success import Rule
from fedsim.record import Interval, ItemScore, VictimRecord

RULE = Rule.of("ssim", 0.5)


def victim(*hits: float, **found: object) -> VictimRecord:
    scores = tuple(ItemScore(index=i, values={"ssim": hit}) for i, hit in enumerate(hits))
    return VictimRecord(round=1, client=0, scores=scores).model_copy(update=found)


@pytest.mark.parametrize(
    ("found", "light"),
    [
        (wilson(0, 73), "kept"),  # 0 to 5.0 %
        (wilson(0, 72), "undecided"),
        (wilson(2, 20), "undecided"),  # 2.8 to 30 %
        (wilson(5, 20), "broken"),  # 11 to 47 %
        (Interval(value=0.9, low=None, high=None, n=1), "undecided"),
        (None, "undecided"),
    ],
)
def test_only_an_interval_keeps_or_breaks_a_limit(found: Interval | None, light: str) -> None:
    assert held(found, 0.05) == light
    assert held(found, 0.05, is_evidence=False) == ("undecided" if light == "kept" else light)


@pytest.mark.parametrize(("hits", "n", "limit"), [(0, 4, 0.05), (0, 2, 0.5), (1, 4, 0.5), (3, 4, 0.5), (4, 4, 0.9)])
def test_the_advised_number_of_updates_is_the_least_that_decides(hits: int, n: int, limit: float) -> None:
    found = wilson(hits, n)
    more = updates_to_decide(found, limit, 0.95)
    counts = range(n, n + 400)
    brute = next(m - n for m in counts if held(wilson(found.value * m, m), limit) != "undecided")
    assert more == brute


def test_no_number_of_updates_decides_about_a_share_on_the_limit() -> None:
    assert updates_to_decide(wilson(1, 4), 0.25, 0.95) is None
    assert updates_to_decide(wilson(0, 4), 0.0, 0.95) is None


def test_an_update_is_evidence_where_all_was_recovered_or_the_search_converged() -> None:
    assert is_evidence(victim(0.9, 0.9), RULE)
    assert is_evidence(victim(0.1, 0.9, converged=True), RULE)
    assert not is_evidence(victim(0.1, 0.9), RULE)
    assert not is_evidence(victim(0.1, converged=False), RULE)
    assert not is_evidence(victim(failure="it broke", converged=True), RULE)


def test_one_recovered_example_is_proof_and_one_open_search_leaves_all_open() -> None:
    kept = victim(0.1, converged=True)
    assert state_of([kept, kept], RULE) == "withstood"
    assert state_of([kept, victim(0.1, converged=False)], RULE) == "undecided"
    assert state_of([kept, victim(0.1, 0.6, converged=False)], RULE) == "recovered"
    assert state_of([], RULE) == "undecided"
