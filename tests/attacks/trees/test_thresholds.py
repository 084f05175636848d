"""Thresholds are the client's values with the histogram method, and only there."""

import pytest

from fedsim.core.errors import NotApplicable
from fedsim.questions.trees.metrics import find_occurring
from tests.attacks.trees.seats import answer, seat


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("numbers", [False, True])
def test_every_threshold_is_a_value_of_the_clients_rows(rounds: int, numbers: bool) -> None:
    view, rows = seat(rounds=rounds, numbers=numbers)
    listed = answer("thresholds", view)
    assert len(listed) > 5
    assert bool(find_occurring(listed, rows.inputs).all())
    _, others = seat(client=1, rounds=rounds, numbers=numbers)
    assert not bool(find_occurring(listed, others.inputs).any())  # no two made rows share a value


def test_stripped_models_show_them_all_the_same() -> None:
    view, rows = seat(defense={"name": "strip-sums"})
    assert bool(find_occurring(answer("thresholds", view), rows.inputs).all())


def test_the_exact_method_shows_few() -> None:
    view, rows = seat(tree_method="exact")
    assert find_occurring(answer("thresholds", view), rows.inputs).float().mean() < 0.5


def test_a_tree_without_a_split_shows_nothing() -> None:
    view, _ = seat(defense={"name": "leaf-size", "rows": 40})
    with pytest.raises(NotApplicable, match="none of the client's trees splits"):
        answer("thresholds", view)
