"""DLG, iDLG and CPL on small networks in double precision, where they recover images to the last digits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.time_budget import OUT_OF_TIME, DeadlineReached
from fedsim.core.types import Reconstruction, Step, Truth
from tests.attacks.gradient_matching.lenets import sigmoid_lenet
from tests.attacks.solving import attacked, sending, toy

ThreeAttacks = pytest.mark.parametrize("name", ["dlg", "idlg", "cpl"])


found_by = partial(attacked, stream=3)


def error(found: Reconstruction, truth: Truth) -> float:
    return float((found.inputs - truth.batches[0].inputs).abs().max())


@pytest.mark.paper_step("cpl", "search by L-BFGS")
@pytest.mark.paper_step("idlg", "search for the image alone")
@ThreeAttacks
def test_one_image_and_its_label_are_exact(name: str) -> None:
    observation, truth = toy(sigmoid_lenet(), (1, 6, 6), 1)
    settings = {"label_weight": 0.0} if name == "cpl" else {}
    found = found_by(name, replace(observation, labels=None), threshold=1e-12, **settings)
    assert error(found, truth) < 1e-4
    assert torch.equal(found.labels, truth.batches[0].labels)
    assert found.stop_reason == "objective below threshold"
    assert found.diagnostics["squared distance relative to the gradient"] < 1e-12
    assert found.masks is None


@pytest.mark.parametrize("name", ["dlg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("idlg", "cpl"))])
def test_masks_are_found_with_the_image(name: str) -> None:
    observation, truth = toy(sigmoid_lenet(0.5), (1, 6, 6), 1)
    found = found_by(name, observation)
    assert error(found, truth) < 0.05
    assert torch.equal(found.masks[0].round(), truth.masks[0][0])
    changed = replace(observation, threat=observation.threat.model_copy(update={"knows": ("batch-size", "labels")}))
    blind = found_by(name, changed, restarts=0, max_iterations=8)
    assert blind.masks is None
    assert error(blind, truth) > 0.3


@pytest.mark.parametrize("name", ["idlg", "cpl"])
def test_granted_labels_are_used_and_batches_work(name: str) -> None:
    observation, truth = toy(sigmoid_lenet(), (1, 6, 6), 2)
    observation = replace(observation, labels=truth.batches[0].labels)
    found = found_by(name, observation)
    assert torch.equal(found.labels, truth.batches[0].labels)
    distances = (found.inputs[:, None] - truth.batches[0].inputs[None]).abs().flatten(2).amax(2)
    assert float(distances.min(0).values.max()) < 0.1


def test_each_start_that_diverges_is_followed_by_another_up_to_the_limit() -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    steps: list[Step] = []
    found = found_by(
        "dlg", observation, steps.append, max_iterations=3, inner=1, restarts=2, divergence_threshold=1e-9
    )  # three single steps never suffice
    assert found.diagnostics["starts"] == found.diagnostics["starts that diverged"] == 3
    assert sorted({step.restart for step in steps}) == [0, 1, 2]
    assert [step.iteration for step in steps] == list(range(1, 10))
    assert {step.iterations for step in steps} == {9}
    assert found.objective == min(step.objective for step in steps)
    assert found.iterations == 9


def test_a_start_ends_on_its_plateau() -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    found = found_by("cpl", observation, patience=4)
    assert found.stop_reason == "no improvement"
    objectives = [value for _, value in found.history]
    assert min(objectives[:-4]) * (1 - 1e-4) <= min(objectives[-4:])
    assert min(objectives[:-5]) * (1 - 1e-4) > min(objectives[:-4])


def test_an_objective_that_is_not_a_number_ends_without_an_image() -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    broken = replace(observation, loss=lambda outputs, labels: F.cross_entropy(outputs, labels) * torch.nan)
    for name in ("dlg", "idlg", "cpl"):
        found = found_by(name, broken, max_iterations=4, restarts=1)
        assert found.stop_reason == "objective is not a number"
        assert found.diagnostics["starts"] == 2
        assert not len(found.inputs)
        assert not len(found.labels)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeding.isolate_randomness(1):  # other weights may leave every unit inactive
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
def test_relu_is_noted_and_not_refused(model: Callable[[], nn.Module], has_kinks: bool) -> None:
    observation, _ = toy(model(), (1, 6, 6), 1)
    found = found_by("dlg", observation, max_iterations=1, restarts=0)
    assert any("ReLU" in note for note in found.notes) == has_kinks


@pytest.mark.parametrize("name", ["dlg", "idlg"])
def test_out_of_time_the_best_image_comes_back_with_its_label(name: str) -> None:
    def over(step: Step) -> None:
        if step.iteration == 2:
            raise DeadlineReached

    observation, truth = toy(sigmoid_lenet(), (1, 6, 6), 1)
    found = found_by(name, observation, over, divergence_threshold=1e-30)
    assert (found.stop_reason, found.iterations, found.diagnostics["starts"]) == (OUT_OF_TIME, 2, 1)
    assert torch.equal(found.labels, truth.batches[0].labels)


@pytest.mark.parametrize("name", ["idlg", pytest.param("cpl", marks=pytest.mark.slow)])
def test_a_prior_and_a_distance_may_be_chosen(name: str) -> None:
    observation, truth = toy(sigmoid_lenet(), (1, 6, 6), 1)
    prior = {"name": "squared-norm", "weight": 0.1}
    plain, damped = (found_by(name, observation, priors=priors, restarts=0) for priors in ((), (prior,)))
    assert float(damped.inputs.norm()) < 0.95 * float(plain.inputs.norm())
    cosine = found_by(name, observation, distance="cosine", threshold=0.0)
    assert error(cosine, truth) < 0.2


def test_the_threshold_is_a_share_of_the_gradients_squared_norm() -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    small = sending(
        observation,
        {name: 1e-3 * tensor for name, tensor in observation.update.tensors.items()},
        loss=lambda outputs, labels: 1e-3 * F.cross_entropy(outputs, labels),
    )
    found = found_by("idlg", small)
    assert found.stop_reason == "objective below threshold"
    assert found.diagnostics["squared distance relative to the gradient"] < 1e-10


def test_a_start_diverges_by_its_distance_and_not_by_its_label_term() -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    size = sum(float(tensor.square().sum()) for tensor in observation.update.tensors.values())
    found = found_by("cpl", observation, label_weight=0.1, restarts=1, divergence_threshold=1e-3)
    assert found.objective > 1e-3 * size
    assert (found.diagnostics["starts"], found.diagnostics["starts that diverged"]) == (1, 0)
