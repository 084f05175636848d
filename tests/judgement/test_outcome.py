"""Successes beyond chance are proof; what a failed search says depends on whether it converged."""

from math import comb

import pytest

from fedsim.judgement.evidence import is_evidence
from fedsim.judgement.outcome import outcome_of
from fedsim.metrics.success import Rule
from fedsim.record import Ceiling, ItemScore, VictimRecord
from tests.judgement.victims import RULE, ceiling, victim


def test_one_recovered_example_is_proof_and_one_open_search_leaves_all_open() -> None:
    kept = victim(0.1, converged=True)
    assert outcome_of([kept, kept], RULE) == "withstood"
    assert outcome_of([kept, victim(0.1, converged=False)], RULE) == "undecided"
    assert outcome_of([kept, victim(0.1, 0.6, converged=False)], RULE) == "recovered"
    assert outcome_of([], RULE) == "undecided"


@pytest.mark.parametrize(("read", "state"), [(1.0, "recovered"), (0.0, "undecided"), (None, "undecided")])
def test_every_word_of_an_update_is_proof_whatever_became_of_the_sentences(read: float | None, state: str) -> None:
    values = {} if read is None else {"every_word": read}
    open_, words = victim(0.1, converged=False), victim(0.1, converged=False, values=values)
    assert outcome_of([open_, words, open_], RULE) == state


@pytest.mark.parametrize(("hits", "n"), [(1, 1), (1, 4), (2, 8), (2, 20), (2, 40), (4, 40), (9, 300), (0, 3)])
def test_successes_that_blind_guesses_have_too_are_proof_only_where_there_are_more(hits: int, n: int) -> None:
    rule = Rule.of("identified", 0.5)
    chance = rule.metrics_by_name["identified"].chance
    scores = tuple(ItemScore(index=i, values={"identified": float(i < hits), "ssim": 0.2}) for i in range(n))
    victim_record = VictimRecord(round=1, client=0, scores=scores, converged=True)
    tail = sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(hits, n + 1))
    expected = "recovered" if hits and tail < 0.01 else "undecided" if hits else "withstood"
    assert outcome_of([victim_record], rule) == expected


def test_what_is_alike_pixel_by_pixel_is_proof_among_any_number() -> None:
    alike = ItemScore(index=0, values={"identified": 1.0, "ssim": 0.9})
    others = tuple(ItemScore(index=i, values={"identified": 0.0, "ssim": 0.1}) for i in range(1, 30))
    rule = Rule.of("identified", 0.5)
    assert outcome_of([VictimRecord(round=1, client=0, scores=(alike, *others))], rule) == "recovered"


def test_what_no_attacker_could_recover_withstood_whatever_the_search_did() -> None:
    low, high = ceiling(0.2, 0.9), ceiling(0.9, 0.9)
    assert is_evidence(victim(0.1, 0.9, converged=False, ceiling=low), RULE)
    assert not is_evidence(victim(0.1, 0.9, converged=False, ceiling=high), RULE)
    assert is_evidence(victim(failure="it broke", ceiling=ceiling(0.2)), RULE)
    assert outcome_of([victim(0.1, converged=False, ceiling=ceiling(0.3))], RULE) == "withstood"
    undefined = Ceiling(undefined="not defined for sign")
    assert not is_evidence(victim(0.1, converged=False, ceiling=undefined), RULE)


def test_a_drawn_guess_that_fails_is_no_evidence_where_the_expected_error_is_small() -> None:
    """The contrast behind batch normalisation is one lost direction of hundreds, and holds the whole picture."""
    for metric, threshold, psnr, is_open in (("ssim", 0.5, 41.0, True), ("ssim", 0.5, 19.9, False)):
        own = victim(0.1, converged=False, ceiling=ceiling(0.3, psnr=psnr))
        assert (outcome_of([own], Rule.of(metric, threshold)) == "undecided") is is_open
    strict = Rule.of("psnr", 60.0)
    scores = (ItemScore(index=0, values={"psnr": 30.0}),)
    own = VictimRecord(round=1, client=0, scores=scores, ceiling=Ceiling(psnr=49.0, inputs=4, scores=scores))
    assert outcome_of([own], strict) == "withstood"
