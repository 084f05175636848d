"""CutMix inside the simulated client: equal to the real one at the truth."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from attacks.core.matching.simulated_client import simulated_client
from attacks.core.matching.unknowns import Unknowns, Values
from attacks.local_steps._unrolled import local_steps
from attacks.mixed_batches._cutmix_client import (
    PastingStep,
    balance,
    compute_coverage,
)
from attacks.mixed_batches.cutmix_inversion import compare, pasting_of
from fedsim.core.examples import example_indices, unique_examples
from fedsim.metrics.boxes import inside
from tests.attacks.core.matching.measures import cosine
from tests.attacks.mixed_batches.pasting import observed, on_maps, pasted

SURE = 50.0


def in_order(orders: Sequence[torch.Tensor], shift: int) -> Values:
    """The order of the dummies of every step, from which a shift takes it away."""
    return {f"order of step {n}": (order[None].roll(shift, 1),) for n, order in enumerate(orders, 1)}


@pytest.mark.parametrize("at", ["input", "1", "3"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("passes", [1, 3])
def test_at_the_truth_the_simulated_client_sends_what_the_client_sent(passes: int, per_sample: bool, at: str) -> None:
    if at == "input":
        observation, truth, _ = observed(
            1, "client-randomness", cutmix={"per_sample": per_sample},
            federation={"batch_size": 4, "algorithm": "fedavg", "local_epochs": passes},
            partition={"scheme": "resampled", "examples_per_client": 4},
        )  # fmt: skip
    else:
        observation, truth, _ = on_maps(4, "client-randomness", at=at, passes=passes, per_sample=per_sample)
    originals = unique_examples(truth.original_batches)
    steps, orders = list[PastingStep](), list[torch.Tensor]()
    everyone = zip(local_steps(observation), truth.draws, example_indices(truth.original_batches), strict=True)
    for number, (step, draws, places) in enumerate(everyone):
        assert at == "input" or draws["feature-cutmix.weights"].min() < 1.0
        steps.append(PastingStep(step.examples, (), number=number, pasting=pasting_of(observation, number)))
        orders.append(SURE * F.one_hot(torch.as_tensor(places), 4).T.float())
    comparison = compare(simulated_client(observation, (), True), observation, steps)
    labels = F.one_hot(originals.labels, 10).float()[None]
    right, wrong = (
        cosine(comparison.gradients(originals.inputs[None], (), labels, [0], in_order(orders, shift)))
        for shift in (0, 1)
    )
    assert float(right.detach()) < 1e-5
    assert float(wrong.detach()) > 100 * float(right.detach())


def test_whole_edges_cover_what_the_box_holds_and_others_a_part_of_a_pixel() -> None:
    boxes = torch.tensor([[2, 7, 3, 9], [0, 28, 0, 32], [5, 5, 1, 4]])
    edges = boxes / torch.tensor([28, 28, 32, 32])
    assert torch.allclose(compute_coverage(edges, (28, 32)), inside(boxes, 28, 32).float(), atol=1e-5)
    (part,) = compute_coverage(torch.tensor([[0.25, 1.0, 0.0, 0.75]]), (2, 2))
    assert torch.allclose(part, torch.tensor([[0.5, 0.25], [1.0, 0.5]]))


def test_logits_become_doubly_stochastic_and_sure_ones_a_permutation() -> None:
    soft = balance(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(soft.sum(1), torch.ones(5))
    assert torch.allclose(soft.sum(0), torch.ones(5), atol=0.02)
    exact = torch.eye(5)[torch.tensor([2, 0, 1, 4, 3])]
    assert torch.allclose(balance(SURE * exact), exact, atol=1e-6)


def test_boxes_that_are_searched_explain_the_gradient_once_they_are_right() -> None:
    observation, truth, _ = on_maps(4, at="3", per_sample=True)
    (step,), (draws,), originals = local_steps(observation), truth.draws, truth.original_batches[0]
    pasting = pasting_of(observation, 0)
    step = PastingStep(step.examples, (), number=0, pasting=pasting)
    first = Unknowns(step.unknowns(0.05)).first(torch.Generator())
    assert {name: tuple(own.shape) for name, (own,) in first.items()} == {
        "boxes of step 1": (4, 4),
        "partners of step 1": (4, 4),
    }
    comparison = compare(simulated_client(observation, (), True), observation, [step])
    edges = draws["feature-cutmix.map-boxes"] / 14.0
    partners = SURE * F.one_hot(draws["feature-cutmix.partners"], 4).float()
    labels = F.one_hot(originals.labels, 10).float()[None]
    right, wrong = (
        float(cosine(comparison.gradients(originals.inputs[None], (), labels, [0], pasted(own, partners))).detach())
        for own in (edges, edges.flip(0))
    )
    assert right < 1e-5
    assert wrong > 100 * right


@pytest.mark.parametrize("at", ["1", "3"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("passes", [1, 3])
def test_at_the_truth_the_client_that_pastes_maps_sends_what_the_client_sent(
    passes: int, per_sample: bool, at: str
) -> None:
    observation, truth, _ = on_maps(4, "client-randomness", at=at, passes=passes, per_sample=per_sample)
    originals = unique_examples(truth.original_batches)
    steps, orders = list[PastingStep](), list[torch.Tensor]()
    everyone = zip(local_steps(observation), truth.draws, example_indices(truth.original_batches), strict=True)
    for number, (step, draws, places) in enumerate(everyone):
        assert draws["feature-cutmix.weights"].min() < 1.0
        steps.append(PastingStep(step.examples, (), number=number, pasting=pasting_of(observation, number)))
        orders.append(SURE * F.one_hot(torch.as_tensor(places), 4).T.float())
    comparison = compare(simulated_client(observation, (), True), observation, steps)
    labels = F.one_hot(originals.labels, 10).float()[None]
    right, wrong = (
        cosine(comparison.gradients(originals.inputs[None], (), labels, [0], in_order(orders, shift)))
        for shift in (0, 1)
    )
    assert float(right.detach()) < 1e-5
    assert float(wrong.detach()) > 100 * float(right.detach())
