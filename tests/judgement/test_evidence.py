"""A failed search is evidence where it converged, or where the ideal attacker recovers nothing either."""

from fedsim.judgement.evidence import is_evidence, reach
from fedsim.record import Ceiling
from tests.judgement.victims import RULE, ceiling, victim


def test_an_update_is_evidence_where_all_was_recovered_or_the_search_converged() -> None:
    assert is_evidence(victim(0.9, 0.9), RULE)
    assert is_evidence(victim(0.1, 0.9, converged=True), RULE)
    assert not is_evidence(victim(0.1, 0.9), RULE)
    assert not is_evidence(victim(0.1, converged=False), RULE)
    assert not is_evidence(victim(failure="it broke", converged=True), RULE)


def test_how_far_the_ideal_attacker_comes_is_told_over_all_updates() -> None:
    found = reach([ceiling(0.2, 0.9, psnr=20.0), None, ceiling(0.9, psnr=30.0)], RULE)
    assert found == (25.0, 2 / 3, "25 dB, 2 of 3")
    wide = Ceiling(psnr_low=12.0, psnr_high=80.0)
    assert reach([wide], RULE) == (None, None, "12 to 80 dB")
    assert reach([Ceiling(undefined="not defined for sign")], RULE) == (None, None, "not defined for sign")
    assert reach([None], RULE) is None
