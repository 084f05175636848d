"""Modules that leave tokens out tell whoever listens, and nobody else."""

import copy

import torch
from torch import Tensor, nn

from fedsim.core.nets.kept_tokens import Reducing, kept_tokens, reducing_places
from tests.components.generating import Positive


class Listed(Reducing):
    def forward(self, tokens: Tensor) -> Tensor:
        self.report([2] * len(tokens))
        return tokens[:, :2]


def test_counts_are_collected_by_place_and_pass() -> None:
    model = nn.Sequential(Listed(), nn.Identity(), Listed())
    assert reducing_places(model) == ["0", "2"]
    with kept_tokens(model) as outer:
        model(torch.zeros(3, 5))
        with kept_tokens(model) as inner:
            model(torch.zeros(1, 5))
    model(torch.zeros(2, 5))
    assert outer == {"0": [(2, 2, 2), (2,)], "2": [(2, 2, 2), (2,)]}
    assert inner == {"0": [(2,)], "2": [(2,)]}
    assert model.state_dict() == {}
    with kept_tokens(copy.deepcopy(model)) as copied:
        model(torch.zeros(1, 5))
    assert copied == {"0": [], "2": []}


def test_a_dropped_token_has_no_gradient_and_the_count_says_how_many_have_one() -> None:
    """What a reducer leaks: the number of kept tokens stands in the gradient of the input, and in the report."""
    from fedsim.core.types import Config

    model = Positive(Config()).prepare(nn.Sequential(nn.Flatten(), nn.Linear(20, 1)), torch.Generator())
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with kept_tokens(model) as seen:
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert seen["reducer"] == [tuple((gradient != 0).any(-1).sum(1).tolist())]
    assert 0 < sum(seen["reducer"][0]) < 30


def test_reports_do_not_stand_in_the_way_of_gradients_of_single_examples() -> None:
    from fedsim.core.types import Config

    model = Positive(Config()).prepare(nn.Sequential(nn.Flatten(0), nn.Linear(20, 1)), torch.Generator())
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    parameters = dict(model.named_parameters())

    def loss(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (one[None],)).sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    assert found["model.1.weight"].shape == (3, 1, 20)
