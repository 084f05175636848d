"""An attack at the cut answers for every row, in numbers."""

from typing import ClassVar, final

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutDefense, CutFeatureAttack, CutLabelAttack, check_two_classes
from fedsim.questions.vertical.types import CutView, Evidence

VIEW = CutView(party="a", place=(0, 4), classes=3, shape=(2, 5), rows=torch.arange(7))


class Answer(Config):
    """What is answered."""

    shape: tuple[int, ...]
    value: str = "0.5"


@final
class Labels(CutLabelAttack[Answer]):
    """Answers so much."""

    reads: ClassVar[Evidence] = "gradients"

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        return torch.full(self.config.shape, float(self.config.value), requires_grad=True)


@final
class Features(CutFeatureAttack[Answer]):
    """Answers so much."""

    reads: ClassVar[Evidence] = "embeddings"

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        return torch.full(self.config.shape, float(self.config.value))


def test_answers_of_the_right_shape_are_returned_without_gradients() -> None:
    answer = Labels(Answer(shape=(7, 3)))(VIEW, torch.Generator())
    assert not answer.requires_grad
    assert answer.dtype == torch.double
    assert Features(Answer(shape=(7, 2, 5)))(VIEW, torch.Generator()).shape == (7, 2, 5)


def test_answers_of_another_shape_and_those_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(FedsimError, match=r"shape \(7, 2\), expected \(7, 3\)"):
        Labels(Answer(shape=(7, 2)))(VIEW, torch.Generator())
    with pytest.raises(FedsimError, match=r"expected \(7, 2, 5\)"):
        Features(Answer(shape=(7, 10)))(VIEW, torch.Generator())
    with pytest.raises(FedsimError, match="not finite"):
        Labels(Answer(shape=(7, 3), value="nan"))(VIEW, torch.Generator())


def test_a_defense_that_says_nothing_changes_nothing() -> None:
    defense, gradients, labels = CutDefense(Config()), torch.rand(4, 3), torch.arange(4)
    assert defense.perturb_gradients(gradients, labels, torch.Generator()) is gradients
    assert defense.relabel(labels, 4, torch.Generator()) is labels


def test_three_classes_are_not_two() -> None:
    with pytest.raises(NotApplicable, match="the data have 3"):
        check_two_classes(VIEW)
