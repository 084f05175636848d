"""The simulated client computes what autograd computes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from attacks.core.client_gradient import client_gradient
from attacks.second_order._client import Client
from fedsim.core.types import MethodDescription
from fedsim.core.types.effects import Clipped
from tests.attacks.second_order.solved import SMOOTH, distances, lenet, solve, toy
from tests.federating import watched


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_simulated_client_computes_what_autograd_computes(rate: float) -> None:
    observation, truth = toy(lenet(1, 8, 4, rate), (1, 8, 8), 3, classes=10)
    batch, masks = truth.batches[0], truth.masks[0]
    ours = Client(observation).gradient(batch.inputs, batch.labels, (masks,))
    theirs = client_gradient(observation, batch.inputs, batch.labels, masks)
    torch.testing.assert_close(ours, torch.cat([own.flatten() for own in theirs.values()]))


class Fixed(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias)


class Frozen(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


@pytest.mark.parametrize("kind", [Fixed, Frozen])
def test_statistics_that_a_layer_reads_in_training_mode_too_stay(kind: type[nn.BatchNorm2d]) -> None:
    norm = kind(4)
    norm.running_mean, norm.running_var = torch.linspace(-1.0, 1.0, 4), torch.linspace(0.5, 2.0, 4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), norm, nn.SiLU(), nn.Flatten(), nn.Linear(36, 4))
    observation, truth = toy(model, (1, 8, 8), 1)
    batch = truth.batches[0]
    ours = Client(observation).gradient(batch.inputs, batch.labels, ((),))
    theirs = client_gradient(observation, batch.inputs, batch.labels, ())
    torch.testing.assert_close(ours, torch.cat([own.flatten() for own in theirs.values()]))
    assert kind is Frozen or solve(observation).is_exact


def test_several_steps_with_momentum_are_unrolled() -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.5}
    observation, truth, _ = watched(
        model=SMOOTH,
        partition={"scheme": "resampled", "examples_per_client": 1},
        federation={"algorithm": "fedavg", "local_steps": 3, "batch_size": 1, "optimizer": optimizer},
    )
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-2  # a change of weights has the rounding of the weights
    assert guess.stop_reason == "the equations hold up to rounding"
    assert guess.diagnostics["restarts"] == 1


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_gradient_is_clipped_to_the_declared_norm_and_a_shorter_one_is_not(share: float) -> None:
    observation, truth = toy(lenet(1, 8, 4), (1, 8, 8), 1, classes=10)
    batch = truth.batches[0]
    whole = Client(observation).gradient(batch.inputs, batch.labels, ((),))
    clipped = MethodDescription("clipping", effects=(Clipped(share * float(whole.norm())),))
    ours = Client(replace(observation, known_methods=(clipped,))).gradient(batch.inputs, batch.labels, ((),))
    torch.testing.assert_close(ours, whole * min(1.0, share))


def test_a_normalisation_that_stays_in_evaluation_mode_reads_its_statistics() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> "Frozen":
            return super().train(False)

    norm = Frozen(4)
    norm.running_mean, norm.running_var = torch.linspace(-1.0, 1.0, 4), torch.linspace(0.5, 2.0, 4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), norm, nn.SiLU(), nn.Flatten(), nn.Linear(36, 4))
    observation, truth = toy(model, (1, 8, 8), 1)
    batch = truth.batches[0]
    ours = Client(observation).gradient(batch.inputs, batch.labels, ((),))
    theirs = client_gradient(observation, batch.inputs, batch.labels, ())
    torch.testing.assert_close(ours, torch.cat([own.flatten() for own in theirs.values()]))
