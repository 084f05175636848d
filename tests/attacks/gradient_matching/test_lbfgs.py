"""DLG, iDLG and CPL on small networks in double precision, where they recover images to the last digits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Step, Truth

Toy = Callable[..., tuple[Observation, Truth]]
ThreeAttacks = pytest.mark.parametrize("name", ["dlg", "idlg", "cpl"])


def sigmoid_lenet(dropout: float = 0.0, activation: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    """Strides instead of pooling, weights from a wide uniform distribution, as in DLG's experiments."""
    with seeding.contained(2):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, padding=1),
            activation(),
            nn.Conv2d(6, 6, 3, 1, padding=1),
            activation(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(54, 4),
        )
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def attacked(
    attack_named: Callable[..., Attack[Any]],
    name: str,
    observation: Observation,
    on_step: Callable[[Step], None] = lambda _s: None,
    **settings: object,
) -> Reconstruction:
    return attack_named(name, **settings)(observation, seeding.generator(3, "attack"), on_step)


def error(found: Reconstruction, truth: Truth) -> float:
    return float((found.inputs - truth.batches[0].inputs).abs().max())


@ThreeAttacks
def test_one_image_and_its_label_are_exact(toy: Toy, attack_named: Callable[..., Attack[Any]], name: str) -> None:
    observation, truth = toy(sigmoid_lenet(), (1, 6, 6), 1)
    settings = {"label_weight": 0.0} if name == "cpl" else {}
    found = attacked(attack_named, name, replace(observation, labels=None), threshold=1e-12, **settings)
    assert error(found, truth) < 1e-4
    assert torch.equal(found.labels, truth.batches[0].labels)
    assert found.stopped == "objective below threshold"
    assert found.facts["squared distance relative to the gradient"] < 1e-12
    assert found.masks is None


@ThreeAttacks
def test_masks_are_found_with_the_image(toy: Toy, attack_named: Callable[..., Attack[Any]], name: str) -> None:
    observation, truth = toy(sigmoid_lenet(0.5), (1, 6, 6), 1)
    found = attacked(attack_named, name, observation)
    assert error(found, truth) < 0.05
    assert found.masks is not None
    assert torch.equal(found.masks[0].round(), truth.masks[0][0])
    told = replace(observation, threat=observation.threat.model_copy(update={"knows": ("batch-size", "labels")}))
    blind = attacked(attack_named, name, told, restarts=0, iterations=8)
    assert blind.masks is None
    assert error(blind, truth) > 0.3


@pytest.mark.parametrize("name", ["idlg", "cpl"])
def test_granted_labels_are_used_and_batches_work(
    toy: Toy, attack_named: Callable[..., Attack[Any]], name: str
) -> None:
    observation, truth = toy(sigmoid_lenet(), (1, 6, 6), 2)
    observation = replace(observation, labels=truth.batches[0].labels)
    found = attacked(attack_named, name, observation)
    assert torch.equal(found.labels, truth.batches[0].labels)
    distances = (found.inputs[:, None] - truth.batches[0].inputs[None]).abs().flatten(2).amax(2)
    assert float(distances.min(0).values.max()) < 0.1


def test_the_objective_of_each_is_that_of_the_paper(toy: Toy, attack_named: Callable[..., Attack[Any]]) -> None:
    """Recomputed from the result; at the truth only the label term of CPL would be left."""
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    for name, weight in (("idlg", 0.0), ("cpl", 0.01)):
        found = attacked(attack_named, name, observation, iterations=2, inner=3, restarts=0)
        outputs = observation.model(found.inputs)
        gradients = torch.autograd.grad(
            F.cross_entropy(outputs, found.labels), list(observation.model.parameters()), retain_graph=True
        )
        distance = sum(
            float((g - t).square().sum()) for g, t in zip(gradients, observation.update.tensors.values(), strict=True)
        )
        label = (outputs.softmax(1) - F.one_hot(found.labels, 4)).square().sum().detach()
        assert found.objective == pytest.approx(distance + weight * float(label), rel=1e-9)
        assert found.best_iteration in (1, 2)


def test_each_start_that_diverges_is_followed_by_another_up_to_the_limit(
    toy: Toy, attack_named: Callable[..., Attack[Any]]
) -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    steps: list[Step] = []
    found = attacked(
        attack_named, "dlg", observation, steps.append, iterations=3, inner=1, restarts=2, diverged=1e-9
    )  # three single steps never suffice
    assert found.facts["starts"] == found.facts["starts that diverged"] == 3
    assert sorted({step.restart for step in steps}) == [0, 1, 2]
    assert [step.iteration for step in steps] == list(range(1, 10))
    assert {step.iterations for step in steps} == {9}
    assert found.objective == min(step.objective for step in steps)
    assert found.iterations == 9


def test_a_start_that_ends_well_is_the_last(toy: Toy, attack_named: Callable[..., Attack[Any]]) -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    found = attacked(attack_named, "idlg", observation, diverged=1e9, iterations=1)
    assert found.facts["starts"] == 1
    assert found.facts["starts that diverged"] == 0


def test_a_start_ends_on_its_plateau(toy: Toy, attack_named: Callable[..., Attack[Any]]) -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    found = attacked(attack_named, "cpl", observation, patience=4)
    assert found.stopped == "no improvement"
    objectives = [value for _, value in found.history]
    assert min(objectives[:-4]) * (1 - 1e-4) <= min(objectives[-4:])
    assert min(objectives[:-5]) * (1 - 1e-4) > min(objectives[:-4])


def test_an_objective_that_is_not_a_number_ends_without_an_image(
    toy: Toy, attack_named: Callable[..., Attack[Any]]
) -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    broken = replace(observation, loss=lambda outputs, labels: F.cross_entropy(outputs, labels) * torch.nan)
    for name in ("dlg", "idlg", "cpl"):
        found = attacked(attack_named, name, broken, iterations=4, restarts=1)
        assert found.stopped == "objective is not a number"
        assert found.facts["starts"] == 2
        assert not len(found.inputs)
        assert not len(found.labels)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeding.contained(1):  # other weights may leave every unit inactive
            self.head = nn.Linear(36, 4)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.head(images.flatten(1)))


@pytest.mark.parametrize(
    ("model", "has_kinks"),
    [
        (sigmoid_lenet, False),
        (lambda: sigmoid_lenet(activation=nn.GELU), False),
        (lambda: sigmoid_lenet(activation=nn.ReLU), True),
        (lambda: sigmoid_lenet(activation=nn.LeakyReLU), True),
        (Functional, True),
    ],
)
def test_relu_is_noted_and_not_refused(
    toy: Toy, attack_named: Callable[..., Attack[Any]], model: Callable[[], nn.Module], has_kinks: bool
) -> None:
    observation, _ = toy(model(), (1, 6, 6), 1)
    found = attacked(attack_named, "dlg", observation, iterations=1, restarts=0)
    assert any("ReLU" in note for note in found.notes) == has_kinks


def test_several_steps_are_refused(toy: Toy, attack_named: Callable[..., Attack[Any]]) -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    verdict = attack_named("dlg").applicable(replace(observation, local_steps=2))
    assert not verdict.holds
    assert "2 local steps" in verdict.reason
