"""What ends a text, by hand and against a loop over single tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core.types import Limits
from fedsim.generation.ending import cut


@pytest.mark.parametrize(
    ("new", "written", "length", "limits", "tokens", "ending"),
    [
        ([1, 2], 0, 5, {"max_new_tokens": 5}, (1, 2), None),
        ([1, 2], 3, 5, {"max_new_tokens": 5}, (1, 2), "length"),
        ([1, 2], 4, 5, {"max_new_tokens": 5}, (1,), "length"),
        ([1, 2], 0, 5, {"max_new_tokens": 5, "context": 6}, (1,), "context"),
        ([1, 2], 0, 5, {"max_new_tokens": 5, "context": 7}, (1, 2), "context"),
        ([1, 9, 2], 0, 5, {"max_new_tokens": 5, "stop_tokens": [9]}, (1, 9), "stop"),
        ([1, 9, 2], 4, 5, {"max_new_tokens": 5, "stop_tokens": [9]}, (1,), "length"),
        ([9], 4, 5, {"max_new_tokens": 5, "stop_tokens": [9]}, (9,), "stop"),
        ([], 0, 5, {"max_new_tokens": 5}, (), None),
    ],
)
def test_a_step_is_cut_where_the_text_ends(
    new: list[int], written: int, length: int, limits: dict, tokens: tuple[int, ...], ending: str | None
) -> None:
    assert cut(new, written, length, Limits(**limits)) == (tokens, ending)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 12), st.integers(4, 14), st.integers(1, 4))
def test_tokens_may_come_one_by_one_or_several_at_once(text: list[int], most: int, context: int, size: int) -> None:
    limits = Limits(max_new_tokens=most, context=context, stop_tokens=frozenset({5}))
    ends = []
    for step in (1, size):
        written, ending = list[int](), None
        for start in range(0, len(text), step):
            tokens, ending = cut(text[start : start + step], len(written), 3 + len(written), limits)
            written += tokens
            if ending:
                break
        ends.append((written, ending))
    assert ends[0] == ends[1]


def test_limits_that_cannot_be_are_refused() -> None:
    for wrong in ({"max_new_tokens": -1}, {"max_new_tokens": 1, "context": 0}, {"max_new": 1}):
        with pytest.raises(ValueError, match="max_new|context"):
            Limits(**wrong)
