"""Groups of rows on hand-built boxes: cut, merged, drawn, assigned, and the best of several tries."""

from typing import Any

import numpy as np
import pytest
import torch

from attacks.trees import _groups
from attacks.trees._groups import Groups, Sharing
from fedsim.questions.trees.types import RowBoxes, Tree

HALF = Tree(
    *(torch.tensor(part) for part in ([1, -1, -1], [2, -1, -1], [1, 0, 0])), torch.tensor([2.0, 0.25, -0.5]), None
)


def groups(low: Any, high: Any, label: Any, margin: Any, count: Any) -> Groups:
    parts = (np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
    return Groups(*parts, np.array(label), np.array(margin, dtype=float), np.array(count), np.arange(len(count)))


TWO = groups([[0, 0], [0, 2]], [[4, 4], [4, 9]], [0, 1], [0.5, 1.0], [3, 5])


def test_a_box_is_cut_at_the_threshold_and_a_leaf_outside_it_is_no_place() -> None:
    cut, leaf = TWO.cut(HALF)
    assert leaf.tolist() == [0, 1, 1]
    assert cut.low.tolist() == [[0, 0], [0, 2], [0, 2]]
    assert cut.high.tolist() == [[4, 2], [4, 4], [4, 9]]
    assert cut.margin.tolist() == [0.75, 0.0, 0.5]
    assert (cut.label.tolist(), cut.count.tolist(), cut.group.tolist()) == ([0, 0, 1], [3, 3, 5], [0, 0, 1])


def test_groups_are_merged_where_box_label_and_margin_are_equal_and_empty_ones_go() -> None:
    boxes = [[0, 0]] * 5 + [[1, 0]]
    several = groups(boxes, [[4, 4]] * 6, [0, 0, 1, 0, 0, 0], [0.5, 0.5, 0.5, 0.7, 0.9, 0.5], [2, 3, 4, 6, 0, 1])
    merged = several.merge_duplicates()
    assert merged.count.tolist() == [5, 4, 6, 1]
    assert (merged.label.tolist(), merged.margin.tolist()) == ([0, 1, 0, 0], [0.5, 0.5, 0.7, 0.5])
    assert merged.group.tolist() == [0, 1, 2, 3]
    assert merged.low.tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]


def test_every_row_has_the_box_of_its_group() -> None:
    boxes = TWO.boxes()
    assert boxes.labels.tolist() == [0] * 3 + [1] * 5
    assert boxes.low.tolist() == [[0, 0]] * 3 + [[0, 2]] * 5
    assert boxes.high.tolist() == [[4, 4]] * 3 + [[4, 9]] * 5


def sharing(sums: list[float]) -> Sharing:
    """Two groups of 3 and 5 rows: three places, in leaves 0, 1 and 1, with unequal derivatives."""
    cut, leaf = TWO.cut(HALF)
    return Sharing(cut, leaf, np.array([0.5, 2.0, -1.0]), np.array([0.25, 0.1, 0.2]), np.array(sums))


def test_sums_are_of_first_then_of_second_derivatives_in_each_leaf() -> None:
    exact = sharing([0.5, -1.0, 0.25, 1.2])
    assert exact.total.toarray().tolist() == [[0.5, 0, 0], [0, 2.0, -1.0], [0.25, 0, 0], [0, 0.1, 0.2]]
    assert exact.misfit(np.array([1, 2, 5])) == pytest.approx(0, abs=1e-12)
    assert exact.misfit(np.array([2, 1, 5])) == pytest.approx(0.5 + 2.0 + 0.25 + 0.1)


def test_the_assignment_with_these_sums_is_found_and_keeps_the_rows_of_each_group() -> None:
    for first, second in ((1, 2), (3, 0), (0, 3)):
        count = np.array([first, second, 5])
        asked = sharing((sharing([0.0] * 4).total @ count).tolist())
        assert _groups.solve(200, torch.Generator().manual_seed(0))(asked).tolist() == count.tolist()


def test_rows_without_a_search_take_each_place_equally_often() -> None:
    share = _groups.draw(torch.Generator().manual_seed(0))
    drawn = np.stack([share(sharing([0.0] * 4)) for _ in range(400)])
    assert bool((drawn[:, :2].sum(1) == 3).all())
    assert bool((drawn[:, 2] == 5).all())
    assert drawn[:, 0].mean() == pytest.approx(1.5, abs=0.18)  # four deviations of 0.87 / 20


@pytest.mark.parametrize(
    ("misfits", "asked", "best"), [([0.5, 0.2, 0.9], 3, 1), ([0.5, 1e-4, 0.0], 2, 1), ([2e-3, 1e-3, 0.9], 3, 1)]
)
def test_the_best_of_several_tries_counts_and_an_exact_one_ends_the_search(
    monkeypatch: pytest.MonkeyPatch, misfits: list[float], asked: int, best: int
) -> None:
    answers = [
        (RowBoxes(torch.tensor([number]), *torch.zeros(2, 1, 1)), misfit) for number, misfit in enumerate(misfits)
    ]
    left = iter(answers)
    monkeypatch.setattr(_groups, "follow", lambda *_: next(left))
    found: Any = _groups.search(None, 3, 1, torch.Generator())  # type: ignore[arg-type]
    assert found.labels.tolist() == [best]
    assert len(list(left)) == 3 - asked
