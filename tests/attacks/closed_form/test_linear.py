from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from tests.attacks.solving import psnr_of, sending, solve, toy
from tests.federating import watched

NAME = "closed-form-linear"
UNLABELLED = ("batch-size", "dropout-rates", "input-statistics")


def dense(pixels: int, width: int, *, bias: bool, rate: float, activation: type[nn.Module] = nn.GELU) -> nn.Module:
    with seeding.isolate_randomness(2):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, width, bias=bias),
            activation(),
            nn.Dropout(rate),
            nn.Linear(width, width, bias=bias),
            nn.GELU(),
            nn.Linear(width, 4, bias=bias),
        )


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(48, 20, bias=False), nn.GELU(), nn.Linear(20, 4, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.permute(0, 2, 3, 1).flatten(1))


@pytest.mark.paper_step("closed-form-linear", "input from the gradients of weight and bias")
@example(shape=(3, 5, 5), width=36, bias=False, rate=0.0, seed=11)
@example(shape=(1, 4, 5), width=28, bias=False, rate=0.0, seed=35)  # a saturated factor looks better on the grid
@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(3, 5), st.integers(3, 5)),
    width=st.integers(24, 40),
    bias=st.booleans(),
    rate=st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    seed=st.integers(0, 50),
)
def test_recovers_the_input_of_any_shape(shape, width, bias, rate, seed):
    pixels = shape[0] * shape[1] * shape[2]
    observation, truth = toy(dense(pixels, width, bias=bias, rate=rate), shape, 1, seed=seed)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)
    assert guess.objective < 1e-12


@pytest.mark.parametrize("rate", [0.0, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.1, 0.25)), 0.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "data", [{"name": "mnist5k", "train": 40, "test": 10}, {"name": "foolbox-samples", "collection": "cifar10"}]
)
def test_real_images_come_back_exactly_without_labels(data, bias, rate):
    model = {"name": "mlp", "width": 512, "depth": 3, "bias": bias, "dropout": rate}
    observation, truth, world = watched(data=data, model=model, knows=UNLABELLED)
    guess = solve(NAME, observation)
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 120
    assert torch.equal(guess.labels, truth.batches[0].labels)
    assert guess.objective < 1e-9
    assert [m.tolist() for m in guess.masks or ()] == [m.tolist() for m in truth.masks[0]]


def test_pixels_may_be_flattened_in_another_order():
    with seeding.isolate_randomness(0):
        observation, truth = toy(ChannelsLast(), (3, 4, 4), 1)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_a_scale_free_activation_leaves_the_scale_a_guess(activation):
    observation, truth = toy(dense(27, 30, bias=False, rate=0.25, activation=activation), (3, 3, 3), 1)
    guess = solve(NAME, observation)
    direction = nn.functional.cosine_similarity(guess.inputs.flatten(), truth.batches[0].inputs.flatten(), dim=0)
    assert float(direction) == pytest.approx(1.0, abs=1e-9)
    assert any("guessed from the pixel range" in note for note in guess.notes)
    pixels = guess.inputs * 0.2 + 0.5
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    assert min(float(pixels.min()), 1 - float(pixels.max())) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_noise_that_hides_every_zero_costs_sharpness_only(bias):
    observation, truth, world = watched(
        model={"name": "mlp", "width": 512, "depth": 3, "bias": bias},
        defenses=[{"name": "gradient-noise", "scale": 1e-4}],
    )
    guess = solve(NAME, observation)
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 45


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensor: tensor + 1e-4 * tensor.std() * torch.randn(tensor.shape, generator=torch.Generator()),
        lambda tensor: torch.where(tensor.abs() > tensor[tensor != 0].abs().median(), tensor, 0.0),
        lambda tensor: tensor.bfloat16().to(tensor.dtype),
    ],
    ids=["noise", "pruning", "bfloat16"],
)
@pytest.mark.parametrize("bias", [False, True])
def test_masks_are_withheld_when_the_gradient_is_not_exact(spoil, bias):
    observation, truth = toy(dense(48, 40, bias=bias, rate=0.5), (3, 4, 4), 1)
    spoilt = {name: spoil(tensor) for name, tensor in observation.update.tensors.items()}
    guess = solve(NAME, sending(observation, spoilt))
    assert guess.masks is None
    assert "zero share" not in guess.diagnostics
    assert guess.diagnostics["rank-one residual"] > 1e-5
    cosine = nn.functional.cosine_similarity(guess.inputs.flatten(), truth.batches[0].inputs.flatten(), dim=0)
    assert float(cosine) > 0.9


def test_facts_tell_the_rank_and_the_share_of_dropped_units():
    observation, truth = toy(dense(48, 40, bias=False, rate=0.5), (3, 4, 4), 1)
    diagnostics = solve(NAME, observation).diagnostics
    assert diagnostics["numerical rank"] == 1
    assert diagnostics["zero share"] == pytest.approx(float((truth.masks[0][0] == 0).double().mean()))
    several, _ = toy(dense(48, 40, bias=False, rate=0.0), (3, 4, 4), 3)
    unknown = replace(several, batch_size=None, labels=None, sites=())
    assert solve(NAME, unknown).diagnostics["numerical rank"] == 3


def test_refuses_with_the_reason():
    several, _, _ = watched(federation={"batch_size": 2})
    in_front = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(27, 8), nn.GELU(), nn.Linear(8, 4))
    masked, _ = toy(in_front, (3, 3, 3), 1)
    steps = replace(toy(dense(27, 8, bias=True, rate=0.0), (3, 3, 3), 1)[0], local_steps=3)
    for observation, reason in ((several, "mixes 2 examples"), (masked, "no linear layer"), (steps, "3 local steps")):
        with pytest.raises(NotApplicable, match=reason):
            solve(NAME, observation)
