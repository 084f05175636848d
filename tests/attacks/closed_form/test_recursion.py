"""From the head of a chain back to its input: dense chains are exact, and what no walk can start from is refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.closed_form._recursion import (
    LayerSolution,
    Outputs,
    Recursion,
    RecursionConfig,
    recurse,
    recursion_outlook,
    refusal,
)
from attacks.closed_form._sequential_network import SequentialLayer
from attacks.core.client_gradient import client_gradient
from attacks.core.gradient_cost import gradient_seconds
from attacks.core.results import NothingFound
from fedsim.core import seeding
from fedsim.core.types import Observation, Step, ThreatModel
from tests.attacks.solving import Toy, sending


def chain(rate: float = 0.0) -> nn.Module:
    with seeding.isolate_randomness(2):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(12, 10), nn.Sigmoid(), nn.Dropout(rate), nn.Linear(10, 8), nn.Tanh(),
            nn.Linear(8, 4),
        )  # fmt: skip


def no_convolution(
    _layer: SequentialLayer, _gradient: Tensor, _k: Tensor, _outputs: Outputs, _centre: Tensor
) -> LayerSolution:
    raise AssertionError("a dense chain has no convolution")


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_dense_chain_gives_image_label_and_masks_in_one_walk(toy: Toy, rate: float) -> None:
    observation, truth = toy(chain(rate), (3, 2, 2), 1)
    steps: list[Step] = []
    recursion = recurse(replace(observation, labels=None), no_convolution, 3, steps.append)
    assert isinstance(recursion, Recursion)
    assert torch.allclose(recursion.inputs, truth.batches[0].inputs, atol=1e-8)
    assert torch.equal(recursion.labels, truth.batches[0].labels)
    assert all(torch.equal(own, mask) for own, mask in zip(recursion.masks, truth.masks[0], strict=True))
    assert recursion.matches
    assert recursion.short is None
    assert [name for name, _, _ in recursion.ranks] == ["6", "4", "1"]
    assert len(steps) == len(recursion.history) == 1
    guess = recursion.reconstruction(observation, "solved")
    assert guess.diagnostics["unknowns of '1'"] == 12.0
    assert guess.stop_reason == "solved"


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_dense_chain_gives_a_batch_of_distinct_labels(toy: Toy, rate: float) -> None:
    observation, truth = toy(chain(rate), (3, 2, 2), 3)
    inputs, labels = truth.batches[0].inputs, torch.tensor([0, 2, 3])
    tensors = client_gradient(observation, inputs, labels, truth.masks[0])
    seen = sending(observation, tensors, labels=labels)
    recursion = recurse(seen, no_convolution, 1, lambda _step: None)
    torch.testing.assert_close(recursion.inputs, inputs, atol=1e-6, rtol=1e-6)
    assert torch.equal(recursion.labels, labels)
    assert all(torch.equal(own, mask) for own, mask in zip(recursion.masks, truth.masks[0], strict=True))
    assert recursion.short is None
    assert recursion.is_exact


def test_examples_that_the_head_does_not_tell_apart_end_the_walk(toy: Toy) -> None:
    observation, _ = toy(chain(), (3, 2, 2), 2)
    noisy = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in observation.update.tensors.items()}
    with pytest.raises(NothingFound, match="does not separate the examples"):
        recurse(sending(observation, noisy), no_convolution, 1, print)


def test_a_convolution_is_left_to_the_solver_that_gets_its_outputs(toy: Toy) -> None:
    with seeding.isolate_randomness(2):
        model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(12, 4))
    observation, truth = toy(model, (1, 3, 3), 1)
    image = truth.batches[0].inputs.flatten()

    def known(layer: SequentialLayer, gradient: Tensor, k: Tensor, outputs: Outputs, centre: Tensor) -> LayerSolution:
        assert torch.allclose(outputs.values, layer.apply(image), atol=1e-6)
        assert torch.allclose(layer.gradient_rows(k) @ image, gradient.flatten(), atol=1e-9)
        assert not bool(centre.any())
        assert outputs.is_complete
        return LayerSolution(image, 9, 0.0)

    recursion = recurse(observation, known, 1, lambda _step: None)
    assert torch.allclose(recursion.inputs, truth.batches[0].inputs)
    assert recursion.objective < 1e-9


def test_what_no_walk_can_start_from_says_why(toy: Toy) -> None:
    observation, _ = toy(chain(0.5), (3, 2, 2), 1)
    assert refusal(observation, 100) is None
    batch, _ = toy(chain(), (3, 2, 2), 4)
    assert "mixes 4 examples; the last layer separates fewer examples than its 4 outputs" in (refusal(batch, 100) or "")
    untold = replace(observation, threat=ThreatModel(knows=()))
    assert "the dropout rates are not known" in (refusal(untold, 100) or "")
    assert "not the cross entropy" in (refusal(replace(observation, loss=lambda o, _y: F.relu(o).sum()), 100) or "")
    convolution, _ = toy(nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 4)), (1, 3, 3), 1)
    assert "has 9 unknowns, more than 'largest_system' = 8" in (refusal(convolution, 8) or "")


@pytest.mark.parametrize("size", [1, 2])
def test_stated_seconds_grow_with_the_cube_of_the_unknowns_of_every_convolution(toy: Toy, size: int) -> None:
    convolutions = [nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.LeakyReLU()]
    observation, _ = toy(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(216, 4)), (1, 6, 6), size)

    def beside_gradients(observation: Observation, walks: float = 1.0) -> float:
        estimate = recursion_outlook(observation, RecursionConfig(), walks, 0.5, "it is Friday")
        return estimate.seconds - 80.0 * gradient_seconds(observation)

    cubes = (size * 36) ** 3 + (size * 4 * 36) ** 3
    assert beside_gradients(observation) == pytest.approx(1e-9 * cubes)
    assert beside_gradients(observation, walks=3.0) == pytest.approx(3e-9 * cubes)
    assert beside_gradients(replace(observation, local_steps=2)) == pytest.approx(0.0)  # refused
    assert beside_gradients(toy(chain(), (3, 2, 2), size)[0]) == pytest.approx(0.0)
