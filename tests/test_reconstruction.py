"""Attacking gradients from anywhere."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedsim
from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Reconstruction

SHAPE = (1, 8, 8)


def network(**changes: Any) -> nn.Module:
    settings = {"bias": True, "dropout": 0.5, **changes}
    with seeding.isolate_randomness(1):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 48, bias=settings["bias"]),
            nn.GELU(),
            nn.Dropout(settings["dropout"]),
            nn.Linear(48, 10, bias=settings["bias"]),
        )


def taken(model: nn.Module, batch_size: int = 1) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand((batch_size, *SHAPE), generator=generator)
    labels = torch.randint(10, (batch_size,), generator=generator)
    with seeding.isolate_randomness(3):
        loss = F.cross_entropy(model(images), labels)
    return images, labels, torch.autograd.grad(loss, list(model.parameters()))


def guess(model: nn.Module, gradients: Any, **more: Any) -> Reconstruction:
    return fedsim.reconstruct(model, F.cross_entropy, gradients, **{"shape": SHAPE, "classes": 10, **more})


@pytest.mark.parametrize("bias", [True, False])
def test_one_image_comes_back_from_gradients_in_the_order_of_the_parameters(bias: bool) -> None:
    model = network(bias=bias)
    image, label, gradients = taken(model)
    found = guess(model, gradients)
    assert torch.allclose(found.inputs, image, atol=1e-4)
    assert torch.equal(found.labels, label)
    assert found.is_exact
    assert found.notes[0] == "won: closed-form-linear, which explains the gradient exactly"


def test_gradients_by_name_and_a_chosen_attack(capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    image, label, gradients = taken(model)
    by_name = dict(zip((name for name, _ in model.named_parameters()), gradients, strict=True))
    steps: list[int] = []
    found = guess(
        model,
        by_name,
        labels=label,
        attack="dropout-inversion",
        settings={"max_iterations": 30},
        on_step=lambda step: steps.append(step.iteration),
    )
    assert steps == list(range(1, 31))
    assert found.inputs.shape == image.shape
    assert capsys.readouterr().out == ""


def test_model_and_gradients_stay_as_they_are() -> None:
    model = network()
    _, _, gradients = taken(model)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [gradient.clone() for gradient in gradients]
    guess(model, gradients, attack="inverting-gradients", settings={"max_iterations": 3})
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(before, gradients, strict=True))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_same_seed_gives_the_same_guess_and_another_does_not() -> None:
    model = network()
    _, _, gradients = taken(model)
    settings = {"attack": "inverting-gradients", "settings": {"max_iterations": 3}}
    assert torch.equal(guess(model, gradients, **settings).inputs, guess(model, gradients, **settings).inputs)
    assert not torch.equal(
        guess(model, gradients, **settings, seed=1).inputs, guess(model, gradients, **settings).inputs
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": torch.tensor([12])}, "label 12 is out of range, expected 0 to 9"),
        ({"labels": torch.tensor([1, 2])}, "2 labels were returned, expected a label per example: 1"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"shape": (1, 9, 9)}, "cannot run on a batch of 1 examples of shape"),
        ({"mean": (0.0, 0.0)}, "mean has 2 values, expected a value for each of 1 channels"),
        ({"attack": "dropout-invertion"}, "Did you mean 'dropout-inversion'"),
        ({"attack": "dropout-inversion", "settings": {"iteration": 3}}, "Did you mean 'max_iterations'"),
        (
            {"attack": "dropout-inversion", "settings": {"max_iterations": 0}},
            "iterations: Input should be greater than",
        ),
    ],
)
def test_wrong_arguments_are_one_clear_sentence(more: Mapping[str, Any], message: str) -> None:
    model = network()
    _, _, gradients = taken(model)
    with pytest.raises(FedsimError, match=message):
        guess(model, gradients, **more)


def test_zero_gradients_a_wrong_count_and_a_model_in_evaluation_mode() -> None:
    model = network()
    _, _, gradients = taken(model)
    with pytest.raises(FedsimError, match="every tensor of the update is zero"):
        guess(model, [torch.zeros_like(gradient) for gradient in gradients])
    with pytest.raises(FedsimError, match="3 gradients were given for 4 trained parameters"):
        guess(model, gradients[:3])
    with pytest.raises(FedsimError, match=r"in evaluation mode, and '3' differs.*Call model.train()"):
        guess(model.eval(), gradients)


def test_a_batch_that_is_too_large_for_an_attack_is_refused_with_the_reason() -> None:
    model = network()
    _, _, gradients = taken(model, batch_size=4)
    with pytest.raises(
        NotApplicable, match="the update mixes 4 examples; the closed form of this layer needs a single example"
    ):
        guess(model, gradients, batch_size=4, attack="closed-form-linear")


def test_hidden_layers_are_left_out() -> None:
    model = network()
    image, _, gradients = taken(model)
    by_name = dict(zip((name for name, _ in model.named_parameters()), gradients, strict=True))
    first = {name: tensor for name, tensor in by_name.items() if name.startswith("1.")}
    found = guess(model, first, hidden=("4.weight", "4.bias"), labels=torch.tensor([0]))
    assert torch.allclose(found.inputs, image, atol=1e-4)


def test_a_gradient_that_is_none_is_named_with_two_ways_out() -> None:
    model = network()
    *_, gradients = taken(model)
    by_name = {name: gradient for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True)}
    for given in ({**by_name, "4.bias": None}, (*gradients[:3], None)):
        with pytest.raises(FedsimError, match=r"the gradient of '4.bias' is None: .* hidden = \['4.bias'\]"):
            guess(model, given)
    assert guess(model, {**by_name, "4.bias": None}, hidden=["4.bias"]).inputs.shape == (1, *SHAPE)


TARGETS = {
    "one number": ("regression", 1, F.mse_loss, torch.tensor([[0.4]]), None),
    "three numbers": ("regression", 3, F.mse_loss, torch.tensor([[0.4, -2.0, 1.0]]), None),
    "a set": ("multi-label", 4, F.binary_cross_entropy_with_logits, torch.tensor([[1.0, 0.0, 0.0, 1.0]]), None),
    "no column": ("regression", 1, lambda z, y: F.mse_loss(z[:, 0], y), torch.tensor([0.7]), ()),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_an_image_comes_back_with_its_target(kind: str) -> None:
    task, outputs, loss, labels, shape = TARGETS[kind]
    with seeding.isolate_randomness(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, outputs))
        image = torch.rand(1, 1, 4, 4)
    gradients = torch.autograd.grad(loss(model(image), labels), list(model.parameters()))
    more = {"shape": (1, 4, 4), "classes": outputs, "task": task, "label_shape": shape}
    guess = fedsim.reconstruct(model, loss, gradients, **more)
    torch.testing.assert_close(guess.inputs, image, rtol=0, atol=1e-5)  # single precision over twelve units
    torch.testing.assert_close(guess.labels, labels, rtol=0, atol=1e-5)
    assert guess.is_exact


@pytest.mark.parametrize("loss", [F.mse_loss, F.binary_cross_entropy_with_logits])
def test_a_loss_of_other_labels_is_refused_with_the_remedy(loss: Any) -> None:
    model, labels = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.tensor([[1.0, 0.0, 1.0]])
    gradients = torch.autograd.grad(loss(model(torch.rand(1, 1, 4, 4)), labels), list(model.parameters()))
    with pytest.raises(
        FedsimError, match="fails on labels of task 'classification', classes of shape .*Set the learning task"
    ):
        fedsim.reconstruct(model, loss, gradients, shape=(1, 4, 4), classes=3)
