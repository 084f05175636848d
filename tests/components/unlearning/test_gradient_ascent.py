"""The step comes after the last round, at the last weights, with the client's own dropout masks and draws."""

import torch

from fedsim.components.unlearning.gradient_ascent import GradientAscent, GradientAscentConfig
from tests.components.unlearning.requests import Simple


def test_it_is_one_more_round_of_the_client_whatever_the_server_sees() -> None:
    for request in (Simple(rounds=4), Simple("sum", rounds=4)):
        (own,) = GradientAscent(GradientAscentConfig()).forget(request)
        assert own.round == 5
        assert torch.equal(own.received_weights["w"], request.weights(5)["w"])
        assert torch.equal(own.update.tensors["w"], request.weights(5)["w"] - 7)
        assert own.update.loss == float((request.weights(5)["w"] - 7).square()) / 2
        assert own.truth is not None
        assert own.truth.original_batches[0].inputs.tolist() == [7.0]
