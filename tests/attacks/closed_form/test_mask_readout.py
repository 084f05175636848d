from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.core.mask_readout_rules import read_masks
from fedsim.core import seeding
from tests.attacks.solving import assert_refused, sending, solve, toy
from tests.federating import watched

NAME = "mask-readout"
MLP = {"name": "mlp", "width": 64, "depth": 3, "dropout": 0.5}
SMALL_VIT = {"name": "vit-small", "width": 32, "heads": 4, "blocks": 2, "hidden": 24, "patch": 2, "dropout": 0.25}


def assert_read_entries_are_true(observation, truth) -> float:
    """Return the share of entries read, after comparing each with the mask that was drawn."""
    masks = read_masks(observation)
    for index, mask in masks.items():
        known = ~mask.isnan()
        assert torch.equal(mask[known], truth.masks[0][index][known])
    read = sum(int((~mask.isnan()).sum()) for mask in masks.values())
    return read / sum(mask.numel() for mask in truth.masks[0])


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("knows", [("labels", "batch-size", "dropout-rates", "input-statistics"), ("batch-size",)])
def test_all_masks_of_a_dense_network_are_read(rate, bias, knows):
    observation, truth, _ = watched(model={**MLP, "bias": bias, "dropout": rate}, knows=knows)
    guess = solve(NAME, observation)
    assert [mask.tolist() for mask in guess.masks] == [mask.tolist() for mask in truth.masks[0]]
    assert guess.diagnostics["sites read"] == guess.diagnostics["entries read"] == 1
    assert guess.diagnostics["zero share"] == pytest.approx(float(torch.cat(truth.masks[0], 1).eq(0).double().mean()))
    assert not len(guess.inputs)
    assert guess.objective == 0


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_transformer_shows_its_embedding_and_the_last_masks_of_the_class_token(rate):
    observation, truth, _ = watched(model={**SMALL_VIT, "dropout": rate})
    guess = solve(NAME, observation)
    tokens = 17
    expected = tokens * 32 + 32 + 24 + 32  # embedding; attention's output, hidden units, the block's output
    assert assert_read_entries_are_true(observation, truth) * sum(m.numel() for m in truth.masks[0]) == expected
    assert guess.diagnostics["sites read"] == pytest.approx(4 / len(observation.sites))
    assert torch.equal(guess.masks[0], truth.masks[0][0])
    unread = guess.masks[1]
    assert torch.equal(unread, torch.full_like(unread, 1 - rate))


class MeanPooled(nn.Module):
    """Tokens with a learned position, a mixing layer and dropout, averaged at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(9, 20)
        self.position = nn.Parameter(torch.randn(3, 20))
        self.body = nn.Sequential(nn.Dropout(0.4), nn.Linear(20, 20), nn.GELU(), nn.Dropout(0.4))
        self.head = nn.Sequential(nn.Linear(20, 12), nn.GELU(), nn.Dropout(0.4), nn.Linear(12, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.project(x.flatten(2)) + self.position).mean(1))


def test_masks_that_tokens_share_are_not_read():
    with seeding.isolate_randomness(1):
        observation, truth = toy(MeanPooled(), (3, 3, 3), 1)
    masks = read_masks(observation)
    assert sorted(masks) == [0, 2]
    assert_read_entries_are_true(observation, truth)


def test_zeros_of_relu_explain_the_gradient_as_well_as_those_of_dropout():
    with seeding.isolate_randomness(1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(27, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 4))
    observation, truth = toy(model, (3, 3, 3), 1)
    [mask] = solve(NAME, observation).masks
    [true] = truth.masks[0]
    active = (model[1](truth.batches[0].inputs.flatten(1)) > 0).double()
    assert torch.equal(mask, true * active)


@pytest.mark.parametrize("defense", [{"name": "gradient-noise", "scale": 1e-6}, None])
def test_nothing_is_read_from_a_gradient_that_is_not_exact(defense):
    observation, _, _ = watched(model=SMALL_VIT, defenses=[defense] if defense else [])
    if defense is None:
        tensors = observation.update.tensors
        pruned = {n: torch.where(t.abs() > t[t != 0].abs().median(), t, 0.0) for n, t in tensors.items()}
        observation = sending(observation, pruned)
    guess = solve(NAME, observation)
    assert guess.diagnostics == {"sites read": 0, "entries read": 0}
    assert guess.stop_reason.startswith("gave up")


def test_refuses_with_the_reason():
    cases = {
        "has no dropout": watched(model={**MLP, "dropout": 0.0})[0],
        "in all 2 examples": watched(model=MLP, federation={"batch_size": 2})[0],
        "3 local steps": replace(watched(model=MLP)[0], local_steps=3),
    }
    assert_refused(NAME, cases)
