"""Hidden states are those of the layer, and a probe's mistakes are named."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Probe
from fedsim.core.types import Config, Tensors
from fedsim.generation import hidden_states, probe
from fedsim.generation.probing import layer_states
from tests.components.generating import make, tiny_llama


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.never = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


def test_hidden_states_are_what_the_layer_returns_without_dropout() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    found = hidden_states(model, "1", inputs)
    assert not found.requires_grad
    torch.testing.assert_close(found, model[0](inputs).detach())
    assert model.training


def test_states_of_several_tokens_are_averaged() -> None:
    inputs = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 2
    inputs[labels == 1] += 4
    model = nn.Sequential(nn.Linear(4, 4))
    found = probe(make("toy-nearest-mean"), model, "0", (inputs, labels), inputs, torch.Generator())
    assert found.shape == (8, 2)
    assert (found.argmax(1) == labels).all()


def test_layers_one_by_one_return_what_they_do_in_a_forward_pass() -> None:
    model = tiny_llama(blocks=3).train()
    inputs = torch.randint(0, 23, (20, 6), generator=torch.Generator().manual_seed(0))
    parts = list(layer_states(model, inputs, (0, 2)))
    assert [part.shape[:3] for part in parts] == [(2, 16, 6), (2, 4, 6)]
    for place, name in enumerate(("layers.0", "layers.2")):
        whole = torch.cat([part[place] for part in parts])
        torch.testing.assert_close(whole, hidden_states(model, name, inputs))
        assert not whole.requires_grad
    assert model.training


def test_a_model_without_known_layers_is_refused() -> None:
    with pytest.raises(NotApplicable, match="the layers of this model are not known"):
        list(layer_states(nn.Sequential(), torch.zeros(1, 2).long(), (0,)))


class Seen(Probe[Config]):
    """Returns the vectors that it was asked about."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        return {}

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        return hidden


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4)])
def test_a_probe_gets_the_mean_over_all_but_the_first_and_the_last_dimension(shape: tuple[int, ...]) -> None:
    inputs = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    own = Seen(Config()).with_name("seen")
    found = probe(own, nn.Sequential(nn.Identity()), "0", (inputs, torch.zeros(6)), inputs, torch.Generator())
    torch.testing.assert_close(found, inputs.view(6, -1, 4).mean(1))


def test_layers_that_are_not_there_or_run_more_than_once_are_refused() -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(FedsimError, match="the model has no layer 'layr'. Did you mean 'layer'"):
        hidden_states(Twice(), "layr", x)
    for layer, times in (("layer", 2), ("never", 0)):
        with pytest.raises(FedsimError, match=f"calls layer '{layer}' {times} times, expected once"):
            hidden_states(Twice(), layer, x)
