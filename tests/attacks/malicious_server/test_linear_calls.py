"""Linear layers of a forward pass, what stands between them, and the scale of dropout in front of one."""

import pytest
import torch
from torch import nn

from attacks.malicious_server._linear_calls import (
    PROBES,
    kept_scale,
    lacks_bias,
    lacks_relu,
    linear_calls,
    probes,
)
from fedsim.core import seeding
from tests.attacks.solving import toy

SHAPE = (3, 4, 4)


def network(between: nn.Module, rate: float = 0.0) -> nn.Module:
    """A network whose weights are the same in each process: of nine units, dropout may leave none that a bias opens."""
    with seeding.isolate_randomness(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 9), between, nn.Dropout(rate), nn.Linear(9, 4, bias=False))


def test_calls_are_what_layers_read_and_return() -> None:
    model = network(nn.ReLU(), 0.5)
    calls = linear_calls(model, SHAPE)
    assert not isinstance(calls, str)
    assert [call.name for call in calls] == ["1", "4"]
    assert torch.equal(calls[0].read, probes(model, SHAPE).flatten(1))
    assert calls[1].gave.shape == (PROBES, 4)
    assert lacks_relu(*calls) is None  # dropout is left out


def test_what_is_missing_is_named() -> None:
    calls = linear_calls(network(nn.GELU()), SHAPE)
    assert not isinstance(calls, str)
    assert "not followed by a plain ReLU" in (lacks_relu(*calls) or "")
    assert lacks_bias(network(nn.ReLU()), "1") is None
    assert "layer '4' has no bias" in (lacks_bias(network(nn.ReLU()), "4") or "")
    assert "does not run on an image" in str(linear_calls(nn.Linear(5, 2), SHAPE))


@pytest.mark.parametrize(("rate", "scale"), [(0.0, 1.0), (0.25, 4 / 3), (0.5, 2.0)])
def test_kept_entries_are_larger_by_the_rate(rate: float, scale: float) -> None:
    observation, _ = toy(network(nn.ReLU(), rate), SHAPE, 2)
    assert kept_scale(observation, "4") == pytest.approx(scale)
