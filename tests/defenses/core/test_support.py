"""The entries of largest score, against a sort, also with ties."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses.core.support import count_dropped, largest, zero_outside

SCORES = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def kept(scores: list[int], rate: float) -> list[bool]:
    """The first of the largest."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    chosen = set(order[: len(scores) - count_dropped(len(scores), rate)])
    return [place in chosen for place in range(len(scores))]


@given(SCORES, SCORES, st.floats(0.0, 0.99))
def test_exactly_so_many_are_kept_of_each_tensor_or_of_all_together(
    one: list[int], other: list[int], rate: float
) -> None:
    scores = {"one": torch.tensor(one).float(), "other": torch.tensor(other).float().view(1, -1)}
    alone = largest(scores, rate, "tensor")
    assert alone["one"].tolist() == kept(one, rate)
    assert alone["other"].tolist() == [kept(other, rate)]
    together = largest(scores, rate, "model")
    assert [*together["one"].tolist(), *together["other"][0].tolist()] == kept([*one, *other], rate)


def test_a_product_that_ought_to_be_an_integer_is_one() -> None:
    assert count_dropped(100, 0.29) == 29
    assert all(count_dropped(n, 0.9) == math.floor(n * 9 / 10) for n in range(1, 2000))


def test_entries_outside_are_zero_and_others_stay() -> None:
    tensors = {"a": torch.tensor([1.0, -2.0, torch.inf])}
    found = zero_outside(tensors, {"a": torch.tensor([False, True, False])})
    assert found["a"].tolist() == [0.0, -2.0, 0.0]
