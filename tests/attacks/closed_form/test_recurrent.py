"""Windows from the gradient of a recurrent layer: exact for each kind, refused where the equations do not hold."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from tests.attacks.solving import sending, solve, toy
from tests.federating import scenario
from tests.tasks.targets import attacked, scored, victim

NAME = "closed-form-recurrent"
ROUNDING = 1e-9  # double precision times condition numbers of up to 1e6


class Recurrent(nn.Module):
    """A layer over a window, and what is said of its last state."""

    def __init__(self, layer: nn.RNNBase, form: Callable[[Tensor], Tensor] = lambda x: x, state: Any = None) -> None:
        super().__init__()
        self.layer, self.form, self.state = layer, form, state
        self.head = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 3)

    def forward(self, inputs: Tensor) -> Tensor:
        given = self.form(inputs)
        states = self.layer(given) if self.state is None else self.layer(given, self.state(given))
        return self.head(states[0].mean(1 if self.layer.batch_first else 0))


def layer(kind: str, variables: int = 2, width: int = 16, **more: Any) -> nn.RNNBase:
    torch.manual_seed(0)
    return getattr(nn, kind)(variables, width, **{"batch_first": True, **more})


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("variables", [1, 2, 5])
def test_a_window_comes_back_with_its_class(kind, variables):
    observation, truth = toy(Recurrent(layer(kind, variables)), (6, variables), 1)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=ROUNDING, rtol=0.0)
    assert guess.labels.tolist() == truth.batches[0].labels.tolist()
    assert guess.is_exact
    assert guess.objective < 1e-12


@pytest.mark.parametrize(
    "model",
    [
        Recurrent(layer("GRU", num_layers=2)),
        Recurrent(layer("LSTM", bidirectional=True)),
        Recurrent(layer("RNN", nonlinearity="relu")),
        Recurrent(layer("LSTM", batch_first=False), lambda x: x.transpose(0, 1)),
        Recurrent(layer("GRU"), state=lambda x: torch.zeros(1, len(x), 16, dtype=x.dtype)),
    ],
)
def test_layers_above_directions_and_orders_change_nothing(model):
    observation, truth = toy(model, (5, 2), 1)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=ROUNDING, rtol=0.0)


def test_rows_of_an_image_are_times():
    model = Recurrent(layer("GRU", 4), lambda x: x.movedim(1, 2).flatten(2))
    observation, truth = toy(model, (1, 6, 4), 1)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=ROUNDING, rtol=0.0)


@pytest.mark.parametrize(
    ("model", "shape", "examples", "reason"),
    [
        (Recurrent(layer("GRU")), (5, 2), 2, "mixes 2 windows of 5 times; .* 10 inputs have 9 independent"),
        (Recurrent(layer("GRU", width=4)), (5, 2), 1, "a window has 5 times, more than the 4 numbers of a state"),
        (Recurrent(layer("GRU", bias=False)), (5, 2), 1, "layer 'layer' has no bias"),
        (Recurrent(layer("GRU"), lambda x: 2 * x), (5, 2), 1, "does not read the window once, as it is"),
        (Recurrent(layer("GRU"), state=lambda x: x.new_ones(1, len(x), 16)), (5, 2), 1, "from a state of 0"),
        (nn.Sequential(nn.Flatten(), nn.Linear(10, 3)), (5, 2), 1, "no layer is recurrent"),
    ],
)  # fmt: skip
def test_what_it_cannot_read_is_refused(model, shape, examples, reason):
    observation, _ = toy(model, shape, examples)
    with pytest.raises(NotApplicable, match=reason):
        solve(NAME, observation)


@pytest.mark.parametrize(("windows", "times"), [(1, 5), (2, 5), (3, 4)])
def test_several_windows_have_fewer_independent_states_than_inputs(windows, times):
    observation, _ = toy(Recurrent(layer("RNN")), (times, 2), windows, classes=3)
    tensors = observation.update.tensors
    states = torch.column_stack([tensors["layer.bias_ih_l0"], tensors["layer.weight_hh_l0"]])
    assert int(torch.linalg.matrix_rank(states, rtol=1e-9)) == windows * (times - 1) + 1  # far above rounding, 1e-16


def test_a_hidden_gradient_is_refused_and_a_disturbed_one_is_not_exact():
    observation, _ = toy(Recurrent(layer("LSTM")), (5, 2), 1)
    tensors = dict(observation.update.tensors)
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensors["layer.weight_ih_l0"] = tensors["layer.weight_ih_l0"] + noise
    guess = solve(NAME, sending(observation, tensors))
    assert not guess.is_exact
    hidden = frozenset({"layer.weight_hh_l0"})
    del tensors["layer.weight_hh_l0"]
    with pytest.raises(NotApplicable, match=r"the gradient of 'layer.weight_hh_l0' is not shared"):
        solve(
            NAME,
            sending(observation, tensors, hidden_parameters=hidden),
        )


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_client_that_foretells_gives_window_and_target_back_in_single_precision(cell: str) -> None:
    one = victim(
        scenario,
        1,
        data={"name": "made-series", "windows": 100, "times": 8},
        model={"name": "recurrent", "cell": cell, "width": 64},
    )
    record = scored(one, attacked(one, NAME))
    assert record.scores[0].values["number_error"] < 1e-3
    assert record.scores[0].values["target_read"] == 1.0
