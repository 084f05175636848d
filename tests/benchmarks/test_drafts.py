"""The cost model of drafts: by hand, and against the closed form."""

import pytest

from benchmarks.drafts import LONGEST, gain, needed

FREE = {f"a pass over {1 + count} tokens": 1.0 for count in range(1, LONGEST + 1)}
LINEAR = {f"a pass over {1 + count} tokens": 1.0 + count for count in range(1, LONGEST + 1)}


def test_a_drafter_that_is_always_right_gains_all_that_its_price_leaves() -> None:
    assert gain(1.0, 0.0, FREE) == (LONGEST + 1, LONGEST)
    assert gain(1.0, 0.25, FREE)[0] == pytest.approx((LONGEST + 1) / (1 + LONGEST / 4))
    found, length = gain(0.5, 0.1, FREE)
    assert found == pytest.approx(max((2 - 0.5**number) / (1 + 0.1 * number) for number in range(LONGEST + 1)))
    assert length > 0


def test_a_drafter_that_is_wrong_or_as_dear_as_what_it_saves_drafts_nothing() -> None:
    assert gain(0.0, 0.1, FREE) == (1.0, 0)
    assert gain(0.9, 0.1, LINEAR) == (1.0, 0)


def test_the_agreement_needed_is_the_least_that_reaches_what_is_wanted() -> None:
    found = needed(0.2, FREE)
    assert found is not None
    assert gain(found[0], 0.2, FREE)[0] >= 1.3 > gain(found[0] - 0.01, 0.2, FREE)[0]
    assert needed(0.0, LINEAR) is None
