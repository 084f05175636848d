"""Answers with more parts than there is to guess, of another shape, or without bounds are refused."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.threat.answers import check_bounds, check_count, check_shape


def test_the_limit_itself_is_allowed() -> None:
    check_count(7, 7, "rows")
    with pytest.raises(FedsimError, match=r"^the answer has 1,008 rows, expected at most 1,007\.$"):
        check_count(1008, 1007, "rows")


def test_an_answer_has_the_shape_that_was_asked_for() -> None:
    answer = torch.ones(2, 3)
    assert check_shape(answer, (2, 3)) is answer
    for shape in ((3, 2), (2,), (2, 3, 1)):
        with pytest.raises(FedsimError, match="expected"):
            check_shape(answer, shape)


def test_one_bound_is_enough_and_none_is_too_few() -> None:
    check_bounds(torch.tensor([[0.5, -torch.inf, torch.inf, torch.inf], [-torch.inf, -torch.inf, torch.inf, 2.0]]))
    with pytest.raises(FedsimError, match="1 of 2 boxes have no bound"):
        check_bounds(torch.tensor([[0.5, torch.inf], [-torch.inf, torch.inf]]))
    with pytest.raises(FedsimError, match="no number"):
        check_bounds(torch.tensor([[0.5, torch.nan]]))
