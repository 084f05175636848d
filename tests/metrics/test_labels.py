import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.metrics.labels import label_accuracy


@pytest.mark.parametrize(
    ("guessed", "true", "accuracy"),
    [
        ([1], [1], 1.0),
        ([2], [1], 0.0),
        ([2, 1], [1, 2], 1.0),
        ([1, 1], [1, 2], 0.5),
        ([1, 2, 3], [1, 1, 1], 1 / 3),
        ([], [1], 0.0),
    ],
)
def test_counts_each_label_as_often_as_it_occurs(guessed, true, accuracy):
    assert label_accuracy(guessed, true) == pytest.approx(accuracy)


@given(st.lists(st.integers(0, 4), min_size=1), st.randoms(use_true_random=False))
def test_order_does_not_matter(labels, random):
    shuffled = random.sample(labels, len(labels))
    assert label_accuracy(shuffled, labels) == 1.0


def test_nothing_to_guess():
    with pytest.raises(ValueError, match="at least one"):
        label_accuracy([1], [])
