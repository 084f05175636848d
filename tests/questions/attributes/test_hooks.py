"""What an attack on attributes is checked for, whatever its author wrote."""

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Grants
from fedsim.core.types import Config, Tensors, View
from fedsim.questions.attributes.hooks import AttributeAttack


class Own(AttributeAttack[Config]):
    """Answers what a test gives it."""

    answer: Tensor

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        return torch.zeros(1)

    def read(self, known: Tensor, labels: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        return self.answer


def asked(answer: Tensor) -> Tensor:
    own = Own(Config())
    own.answer = answer
    return own(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]), torch.zeros(5, 2), torch.Generator())


def test_probabilities_of_each_value_pass_without_their_graph() -> None:
    answer = torch.rand(5, 3, requires_grad=True)
    found = asked(answer)
    assert torch.equal(found, answer)
    assert not found.requires_grad


def test_another_shape_or_what_is_no_number_does_not() -> None:
    with pytest.raises(FedsimError, match=r"shape \(5, 2\), expected \(5, 3\)"):
        asked(torch.zeros(5, 2))
    with pytest.raises(FedsimError, match="not finite"):
        asked(torch.full((5, 3), torch.nan))


@pytest.mark.parametrize(("sees", "fits"), [("single-update", True), ("sum", False)])
def test_it_needs_updates_of_single_clients(sees: View, fits: bool) -> None:
    grants = Grants(frozenset(), sees, may_craft=False, masks_updates=False, is_attacked=True)
    assert (Own.missing_grants(grants) is None) == fits
