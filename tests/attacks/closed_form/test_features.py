"""One row through the tokens of its features, whatever follows them."""

import pytest
import torch

from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, Truth
from tests.attacks.solving import attacked, sending, without_information
from tests.federating import watched

NAME = "closed-form-features"
KNOWS = ("batch-size", "dropout-rates", "input-statistics")
SURVEY = {
    "data": {"name": "affairs-survey"},
    "task": "tabular",
    "model": {"name": "ft-transformer", "width": 16, "heads": 2, "hidden": 16, "blocks": 2, "dropout": 0.3},
    "knows": KNOWS,
}


def seen_row(client: int = 0, size: int = 1) -> tuple[Observation, Truth]:
    observation, truth, _ = watched(**SURVEY, client=client, federation={"batch_size": size})
    return observation, truth


@pytest.mark.parametrize("client", range(3))
def test_a_row_and_its_label_come_back_through_dropout(client: int) -> None:
    observation, truth = seen_row(client)
    guess, batch = attacked(NAME, observation), truth.batches[0]
    # The gradient is in single precision, and so are the ratios of its entries.
    torch.testing.assert_close(guess.inputs, batch.inputs, atol=1e-5, rtol=0)
    assert torch.equal(guess.labels, batch.labels)
    assert guess.diagnostics["residual"] < 1e-5


def test_ratios_of_a_gradient_that_is_none_say_so() -> None:
    observation, _ = seen_row()
    guess = attacked(NAME, without_information(observation))
    assert guess.diagnostics["residual"] > 0.5
    assert not guess.is_exact


def test_it_refuses_what_it_cannot_divide() -> None:
    two, _ = seen_row(size=2)
    with pytest.raises(NotApplicable, match="each bias sums the tokens of 2 rows"):
        attacked(NAME, two)
    digits, *_ = watched()
    with pytest.raises(NotApplicable, match="no layer makes a token of each feature"):
        attacked(NAME, digits)
    one, _ = seen_row()
    shared = {name: tensor for name, tensor in one.update.tensors.items() if name != "tokens.bias"}
    hidden = sending(one, shared, hidden_parameters=frozenset({"tokens.bias"}))
    with pytest.raises(NotApplicable, match=r"the gradient of 'tokens.bias' is not shared"):
        attacked(NAME, hidden)
