"""What every way of forgetting promises. Driven by the registry: a new file is covered without a change here."""

from typing import Any, get_args

import pytest
import torch

from fedsim.core import registry
from fedsim.core.hooks import Unlearning
from fedsim.core.types import View
from tests.components.unlearning.requests import Simple

WAYS = [name for name, method in registry.methods("component").items() if method.hook == "unlearning"]


def made(name: str) -> Unlearning[Any]:
    method = registry.get("component", name)
    return method.make(method.config()).with_name(name)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("sees", get_args(View))
def test_it_shows_something_of_each_round_once_and_leaves_the_weights_as_they_are(name: str, sees: View) -> None:
    request = Simple(sees, rounds=3, watched_rounds=(1, 2))
    shown = made(name).forget(request)
    rounds = [own.round for own in shown]
    assert rounds
    assert len(rounds) == len(set(rounds))
    for own in shown:
        assert own.received_weights.keys() == own.update.tensors.keys()
        assert own.update.examples == request.forgotten
        assert all(bool(tensor.isfinite().all()) for tensor in own.update.tensors.values())
        assert (own.truth is not None) == made(name).is_one_step
    assert torch.equal(request.weights(1)["w"], torch.tensor(10.0))


@pytest.mark.parametrize("name", WAYS)
def test_after_one_round_it_is_the_gradient_of_what_is_forgotten(name: str) -> None:
    """That of (w - 7)^2 / 2, at whatever weights: single precision, of which means lose a factor of 4."""
    for sees in get_args(View):
        for own in made(name).forget(Simple(sees)):
            assert torch.allclose(own.update.tensors["w"], own.received_weights["w"] - 7, atol=1e-5)
