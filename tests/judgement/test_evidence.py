"""A limit is judged on the interval; what a failed search says depends on whether it converged."""

from math import comb

import pytest

from fedsim.judgement.evidence import held, is_evidence, reach, state_of, updates_to_decide
from fedsim.metrics.statistics import wilson
from fedsim.metrics.success import Rule
from fedsim.record import Ceiling, Interval, ItemScore, VictimRecord

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
        (Interval(value=0.1, low=0.05, high=0.2, n=9), "undecided"),  # what reaches the limit keeps it
        (Interval(value=0.01, low=0.0, high=0.05, n=9), "kept"),
        (None, "undecided"),
    ],
)
def test_only_an_interval_keeps_or_breaks_a_limit(found: Interval | None, light: str) -> None:
    assert held(found, 0.05) == light
    assert held(found, 0.05, is_evidence=False) == ("undecided" if light == "kept" else light)


@pytest.mark.parametrize(("hits", "n", "limit"), [(0, 4, 0.05), (0, 2, 0.5), (1, 4, 0.5), (3, 4, 0.5), (4, 4, 0.9)])
def test_the_advised_number_of_updates_is_the_least_that_decides(hits: int, n: int, limit: float) -> None:
    interval = wilson(hits, n)
    more = updates_to_decide(interval, limit, 0.95)
    counts = range(n, n + 400)
    brute = next(m - n for m in counts if held(wilson(interval.value * m, m), limit) != "undecided")
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


@pytest.mark.parametrize(("read", "state"), [(1.0, "recovered"), (0.0, "undecided"), (None, "undecided")])
def test_every_word_of_an_update_is_proof_whatever_became_of_the_sentences(read: float | None, state: str) -> None:
    values = {} if read is None else {"every_word": read}
    open_, words = victim(0.1, converged=False), victim(0.1, converged=False, values=values)
    assert state_of([open_, words, open_], RULE) == state


@pytest.mark.parametrize(("hits", "n"), [(1, 1), (1, 4), (2, 8), (2, 20), (2, 40), (4, 40), (9, 300), (0, 3)])
def test_successes_that_blind_guesses_have_too_are_proof_only_where_there_are_more(hits: int, n: int) -> None:
    rule = Rule.of("identified", 0.5)
    chance = rule.declared["identified"].chance
    scores = tuple(ItemScore(index=i, values={"identified": float(i < hits), "ssim": 0.2}) for i in range(n))
    victim_record = VictimRecord(round=1, client=0, scores=scores, converged=True)
    tail = sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(hits, n + 1))
    expected = "recovered" if hits and tail < 0.01 else "undecided" if hits else "withstood"
    assert state_of([victim_record], rule) == expected


def test_what_is_alike_pixel_by_pixel_is_proof_among_any_number() -> None:
    alike = ItemScore(index=0, values={"identified": 1.0, "ssim": 0.9})
    others = tuple(ItemScore(index=i, values={"identified": 0.0, "ssim": 0.1}) for i in range(1, 30))
    rule = Rule.of("identified", 0.5)
    assert state_of([VictimRecord(round=1, client=0, scores=(alike, *others))], rule) == "recovered"


def ceiling(*hits: float, **found: object) -> Ceiling:
    scores = tuple(ItemScore(index=i, values={"ssim": hit}) for i, hit in enumerate(hits))
    return Ceiling(psnr=12.0, inputs=4, scores=scores).model_copy(update=found)


def test_what_no_attacker_could_recover_withstood_whatever_the_search_did() -> None:
    low, high = ceiling(0.2, 0.9), ceiling(0.9, 0.9)
    assert is_evidence(victim(0.1, 0.9, converged=False, ceiling=low), RULE)
    assert not is_evidence(victim(0.1, 0.9, converged=False, ceiling=high), RULE)
    assert is_evidence(victim(failure="it broke", ceiling=ceiling(0.2)), RULE)
    assert state_of([victim(0.1, converged=False, ceiling=ceiling(0.3))], RULE) == "withstood"
    undefined = Ceiling(undefined="not defined for sign")
    assert not is_evidence(victim(0.1, converged=False, ceiling=undefined), RULE)


def test_a_drawn_guess_that_fails_is_no_evidence_where_the_expected_error_is_small() -> None:
    """The contrast behind batch normalisation is one lost direction of hundreds, and holds the whole picture."""
    for metric, threshold, psnr, is_open in (("ssim", 0.5, 41.0, True), ("ssim", 0.5, 19.9, False)):
        own = victim(0.1, converged=False, ceiling=ceiling(0.3, psnr=psnr))
        assert (state_of([own], Rule.of(metric, threshold)) == "undecided") is is_open
    strict = Rule.of("psnr", 60.0)
    scores = (ItemScore(index=0, values={"psnr": 30.0}),)
    own = VictimRecord(round=1, client=0, scores=scores, ceiling=Ceiling(psnr=49.0, inputs=4, scores=scores))
    assert state_of([own], strict) == "withstood"


def test_how_far_the_ideal_attacker_comes_is_told_over_all_updates() -> None:
    found = reach([ceiling(0.2, 0.9, psnr=20.0), None, ceiling(0.9, psnr=30.0)], RULE)
    assert found == (25.0, 2 / 3, "25 dB, 2 of 3")
    wide = Ceiling(psnr_low=12.0, psnr_high=80.0)
    assert reach([wide], RULE) == (None, None, "12 to 80 dB")
    assert reach([Ceiling(undefined="not defined for sign")], RULE) == (None, None, "not defined for sign")
    assert reach([None], RULE) is None
