from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.core.client_gradient import client_gradient
from fedsim.core.types import ThreatModel, Truth
from tests.attacks.batch_separation.transformers import SHAPE, Transformer, build
from tests.attacks.solving import attack_named, psnr_of, solve, toy, without_information
from tests.federating import watched

NAME = "patch-dictionary"


class FixedPositions(Transformer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.drop(self.project(x).flatten(2).transpose(1, 2))).mean(1))


def errors(guess, truth):
    """Least relative error of each true patch among those that were guessed at its position, (positions, images)."""
    wanted, found = (
        images.double().unfold(2, 4, 4).unfold(3, 4, 4).permute(2, 3, 0, 1, 4, 5).reshape(4, len(images), -1)
        for images in (truth.batches[0].inputs, guess.inputs)
    )
    return torch.cdist(wanted, found).amin(2) / wanted.norm(dim=2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rate", "size"), [(0.5, 1), (0.5, 2), (0.5, 3), (0.25, 1)])
def test_every_patch_and_position_of_the_batch_comes_back(rate, size, bias):
    observation, truth = toy(build(rate=rate, bias=bias), SHAPE, size, seed=1)
    guess = solve(NAME, observation)
    assert guess.diagnostics["tokens separated"] == 4 * size
    assert errors(guess, truth).max() < 1e-6
    assert guess.objective < 1e-8
    assert guess.is_exact


def test_where_all_masks_follow_the_whole_gradient_finds_images_and_labels():
    observation, truth = toy(build(), SHAPE, 3, seed=2)
    guess = solve(NAME, replace(observation, labels=None))
    assert "1 - cosine of the whole gradient" in " ".join(guess.notes)
    order = torch.cdist(guess.inputs.flatten(1), truth.batches[0].inputs.flatten(1)).argmin(1)
    assert torch.equal(guess.labels, truth.batches[0].labels[order])


@pytest.mark.parametrize(("size", "seed", "is_sure"), [(2, 1, True), (3, 0, False)])
def test_images_are_exact_only_where_their_tokens_surely_belong_together(size, seed, is_sure):
    observation, truth = toy(build(), SHAPE, size, seed=seed)
    guess = solve(NAME, replace(observation, threat=ThreatModel(knows=("batch-size",))))
    assert guess.objective < 1e-8  # every token is right
    assert (guess.diagnostics["margin of the images"] > 0) is is_sure
    distances = torch.cdist(guess.inputs.flatten(1), truth.batches[0].inputs.flatten(1)).amin(1)
    assert bool(distances.max() < 1e-6) is is_sure  # and so are the images, or else they are mixed
    assert guess.is_exact is is_sure


@pytest.mark.parametrize(("hidden", "is_separated"), [(384, True), pytest.param(64, False, marks=pytest.mark.slow)])
def test_hidden_units_of_the_first_block_open_batches_whose_positions_have_no_zeros(hidden, is_separated):
    model = {"name": "vit-small", "patch": 8, "width": 128, "blocks": 2, "dropout": 0.5, "hidden": hidden}
    data = {"name": "foolbox-samples", "collection": "cifar10", "size": 16}
    knows = ("batch-size", "input-statistics")
    observation, truth, world = watched(data=data, model=model, knows=knows, federation={"batch_size": 6, "clients": 3})
    guess = solve(NAME, observation)
    assert (guess.diagnostics["tokens separated"] == 24) is is_separated
    if is_separated:
        assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 60


def test_one_token_and_the_next_layer_open_the_rest():
    observation, truth = toy(build(inner=0.25), SHAPE, 4, seed=0)
    guess = solve(NAME, observation)
    assert guess.diagnostics["tokens completed by the next layer"] > 0
    assert guess.diagnostics["tokens separated"] == 16
    assert errors(guess, truth).max() < 1e-6
    without_rates = replace(observation, threat=ThreatModel(knows=("batch-size",)))
    assert solve(NAME, without_rates).diagnostics["tokens completed by the next layer"] == 0


def changed(observation, truth, change):
    """The same client with other images."""
    inputs = change(truth.batches[0].inputs.clone())
    tensors = client_gradient(observation, inputs, truth.batches[0].labels, truth.masks[0])
    update = replace(observation.update, tensors={name: tensor.detach() for name, tensor in tensors.items()})
    batch = replace(truth.batches[0], inputs=inputs)
    return replace(observation, update=update), Truth((batch,), truth.masks, update, (batch,))


def test_patches_that_several_images_share_are_given_to_all():
    def blacken(images):
        images[:, :, :4, :4] = 0.3
        images[0, :, 4:, :4] = 0.3
        return images

    observation, truth = changed(*toy(build(), SHAPE, 3, seed=4), blacken)
    guess = solve(NAME, observation)
    assert guess.diagnostics["numerical rank"] == 9
    assert guess.diagnostics["tokens separated"] == 12
    assert errors(guess, truth).max() < 1e-6


def test_images_of_which_half_was_separated_come_back_without_the_rest():
    def repeat(images):
        images[1, :, :4, :4] = images[0, :, 4:, 4:]
        images[1, :, :4, 4:] = images[0, :, 4:, :4]
        return images

    observation, truth = changed(*toy(build(inner=0.1), SHAPE, 2, seed=4), repeat)
    guess = solve(NAME, observation)
    assert guess.diagnostics["numerical rank"] == 6
    assert guess.diagnostics["tokens separated"] == 4
    assert guess.diagnostics["images whole"] == 0
    assert not guess.is_exact
    wanted = truth.batches[0].inputs
    assert torch.allclose(guess.inputs[guess.inputs != 0], wanted[torch.isclose(guess.inputs, wanted)], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "kind", "size", "reason"),
    [
        ({"rate": 0.0}, Transformer, 2, "no dropout behind 'position'"),
        ({}, FixedPositions, 2, "no learned position embedding is added"),
        ({}, Transformer, 9, "36 tokens for 32 entries of a patch"),
        ({"width": 16}, Transformer, 5, "20 tokens for 16 features"),
    ],
)
def test_it_refuses_with_the_reason(settings, kind, size, reason):
    model = build(kind, **settings)
    if settings.get("rate") == 0.0:
        model.drop = nn.Identity()
    verdict = attack_named(NAME).applicable(toy(model, SHAPE, size)[0])
    assert not verdict.holds
    assert reason in verdict.reason


def test_noise_is_named_and_nothing_is_returned():
    observation, _ = toy(build(), SHAPE, 2)
    guess = solve(NAME, without_information(observation))
    assert not len(guess.inputs)
    assert guess.stop_reason.startswith("gave up")
