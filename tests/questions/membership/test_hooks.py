"""The base class of membership attacks: view, refusals, and the check of scores."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.grants import Grants
from fedsim.core.types import Config
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import Target


class Task:
    def __init__(self, refusal: str | None = None) -> None:
        self.refusal = refusal

    def refuses_method(self, _attack: object) -> str | None:
        return self.refusal


class Seen:
    def __init__(self, refusal: str | None = None) -> None:
        self.task, self.candidates = Task(refusal), torch.zeros(3, 2)


class OfModels(MembershipAttack[Config]):
    scores: ClassVar[Tensor] = torch.tensor([0.5, -1.0, 2.0])
    refusal: ClassVar[str | None] = None

    def not_applicable(self, observation: Any) -> str | None:
        return self.refusal

    def score(self, observation: Any, generator: torch.Generator) -> Tensor:
        return self.scores


class OfUpdates(OfModels):
    target: ClassVar[Target] = "updates"


def attack(scores: Tensor, refusal: str | None = None) -> Any:
    made = type("Made", (OfModels,), {"scores": scores, "refusal": refusal})
    return made(Config())


def test_scores_of_the_right_shape_are_returned_without_their_graph() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    answer = attack(scores)(Seen(), torch.Generator())
    assert answer.tolist() == [0.5, -1.0, 2.0]
    assert not answer.requires_grad


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        (torch.zeros(2), r"shape \(2,\).*\(3,\)"),
        (torch.zeros(3, 1), r"shape \(3, 1\)"),
        (torch.tensor([0.0, torch.nan, 1.0]), "not a number"),
    ],
)
def test_scores_of_another_shape_or_without_a_value_are_refused(scores: Tensor, why: str) -> None:
    with pytest.raises(FedsimError, match=why):
        attack(scores)(Seen(), torch.Generator())


def test_infinite_scores_are_scores() -> None:
    assert attack(torch.tensor([torch.inf, 0.0, -torch.inf]))(Seen(), torch.Generator())[0] == torch.inf


def test_the_task_refuses_before_the_attack() -> None:
    with pytest.raises(NotApplicable, match="needs images"):
        attack(torch.zeros(3), "one label only")(Seen("needs images"), torch.Generator())
    with pytest.raises(NotApplicable, match="one label only"):
        attack(torch.zeros(3), "one label only")(Seen(), torch.Generator())


@pytest.mark.parametrize(
    ("kind", "view", "fits"),
    [
        (OfModels, "sum", True),
        (OfModels, "single-update", True),
        (OfUpdates, "single-update", True),
        (OfUpdates, "sum", False),
    ],
)
def test_an_attack_on_updates_needs_single_updates(kind: Any, view: Any, fits: bool) -> None:
    missing = kind.missing_grants(Grants(frozenset(), view, may_craft=False, masks_updates=False, is_attacked=True))
    assert (missing is None) == fits
