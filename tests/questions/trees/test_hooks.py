"""Answers of attacks on trees are checked, and a defense does nothing of itself."""

from dataclasses import replace

import pytest
import torch

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Config
from fedsim.questions.trees.hooks import (
    BoxAttack,
    LeafAttack,
    RowAttack,
    ThresholdAttack,
    TreeDefense,
    check_log_loss,
)
from fedsim.questions.trees.types import TreesView

VIEW = TreesView(0, 3, "binary:logistic", 0.3, 1.0, [], 0.5, torch.zeros(4, 3), torch.zeros(4))


class Settings(Config):
    answer: list[list[float]]


class Leaves(LeafAttack[Settings]):
    def search(self, view: TreesView, generator: torch.Generator) -> torch.Tensor:
        answer = torch.tensor(self.config.answer)
        return answer.where(answer > 0, torch.nan)


class Values(ThresholdAttack[Settings]):
    search = Leaves.search


class Intervals(BoxAttack[Settings]):
    search = search_blindly = Leaves.search


class Rows(RowAttack[Settings]):
    search = search_blindly = Leaves.search


@pytest.mark.parametrize(("kind", "width"), [(Leaves, 2), (Values, 2), (Intervals, 7), (Rows, 3)])
def test_an_answer_has_its_columns_and_holds_numbers(kind, width: int) -> None:
    source = torch.Generator()
    right = kind(Settings(answer=[[1.0] * width] * 5))
    assert right(VIEW, source).shape == (5, width)
    with pytest.raises(FedsimError, match=rf"shape \(1, {width + 1}\), expected \(N, {width}\)"):
        kind(Settings(answer=[[1.0] * (width + 1)]))(VIEW, source)
    with pytest.raises(FedsimError, match="no number"):
        kind(Settings(answer=[[0.0] * width]))(VIEW, source)
    if issubclass(kind, BoxAttack | RowAttack):
        assert torch.equal(right.blind(VIEW, source), right(VIEW, source))


def test_numbers_are_no_classes() -> None:
    check_log_loss(VIEW)
    with pytest.raises(NotApplicable, match="labels are numbers"):
        check_log_loss(replace(VIEW, objective="reg:squarederror"))


def test_a_defense_that_writes_nothing_changes_nothing() -> None:
    class Nothing(TreeDefense[Config]):
        """Does nothing."""

    rows, model = torch.ones(2, 3), {"a": 1}
    defense = Nothing(Config())
    assert defense.parameters("binary:logistic") == {}
    assert defense.prepare(rows, rows) is rows
    assert defense.protect_model(model) is model
