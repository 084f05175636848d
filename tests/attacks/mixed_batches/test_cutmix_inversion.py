"""CutMix inside the simulated client, searched where it is not known."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from attacks.core.matching.simulated_client import simulated_client
from attacks.local_steps._unrolled import UnrolledComparison, local_steps
from attacks.mixed_batches._cutmix_client import PastingStep
from attacks.mixed_batches.cutmix_inversion import compare, pasting_of
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.examples import unique_examples
from fedsim.core.hooks import Attack
from fedsim.core.types import Reconstruction
from fedsim.metrics.composites import with_composites
from fedsim.metrics.image import score_items
from fedsim.record import ItemScore
from tests.attacks.core.matching.measures import cosine
from tests.attacks.mixed_batches.pasting import observed, on_maps, pasted
from tests.attacks.solving import attack_named


def attacked(attack: Attack[Any], client: int, *granted: str, **changes: Any) -> Any:
    observation, truth, world = observed(client, *granted, **changes)
    reconstruction: Reconstruction = attack(observation, seeding.generator(1, "attack"))
    examples, spec = unique_examples(truth.original_batches), world.data.dataset.spec
    items: tuple[ItemScore, ...] = with_composites(
        score_items(reconstruction, examples, spec), reconstruction, truth, examples, spec
    )
    return reconstruction, items


def test_without_a_cut_it_is_the_attack_that_knows_nothing() -> None:
    observation, truth, _ = on_maps(4, at="3", per_sample=True)
    client, step, pasting = (
        simulated_client(observation, (), True),
        local_steps(observation)[0],
        pasting_of(observation, 0),
    )
    theirs = compare(client, observation, [PastingStep(step.examples, (), number=0, pasting=pasting)])
    plain = UnrolledComparison(client, [observation], [step], checkpointed=False)
    inputs = torch.randn_like(truth.original_batches[0].inputs)[None].requires_grad_()
    labels = F.one_hot(truth.original_batches[0].labels, 10).float()[None]
    empty = pasted(torch.full((4, 4), 0.5), torch.zeros(4, 4))
    ours, others = (cosine(own.gradients(inputs, (), labels, [0], empty)) for own in (theirs, plain))
    assert torch.allclose(ours, others, atol=1e-6)
    ours, others = (torch.autograd.grad(value, inputs)[0] for value in (ours, others))
    assert ours.any()
    assert torch.allclose(ours, others, atol=1e-6)


@pytest.mark.parametrize("granted", [(), ("client-randomness",)], ids=["searched", "granted"])
def test_what_entered_the_model_that_pastes_maps_are_the_originals(granted: tuple[Any, ...]) -> None:
    observation, _, _ = on_maps(2, *granted, at="3", per_sample=True)
    attack = attack_named("cutmix-inversion", max_iterations=3, restarts=2)
    found, again = (attack(observation, seeding.generator(1, "attack")) for _ in range(2))
    assert torch.equal(found.inputs, again.inputs)
    assert torch.equal(found.trained_batch.inputs, found.inputs)
    assert found.trained_batch.labels.shape == (2, 10)
    assert torch.allclose(found.trained_batch.labels.sum(1), torch.ones(2), atol=0.02)


@pytest.mark.slow
def test_originals_come_back_through_a_convolutional_network_where_draws_are_granted() -> None:
    guess, items = attacked(convolved(), 1, "client-randomness", seed=50)
    assert guess.objective < 1e-2
    assert min(item.values.get("psnr_trained") or 0.0 for item in items) > 25
    assert min(item.values["psnr"] for item in items) > 25


def convolved() -> Attack[Any]:
    return attack_named("cutmix-inversion", max_iterations=300, restarts=2)


def test_auto_turns_to_it_where_a_component_pastes() -> None:
    others = [name for name in registry.methods("attack", Attack) if name not in ("auto", "cutmix-inversion")]
    auto = attack_named("auto", max_iterations=4, mask_iterations=1, leave_out=others)
    for federation in ({}, {"algorithm": "fedavg", "local_epochs": 2}):
        found, _ = attacked(auto, 1, federation=federation)
        assert found.notes[0] == "won: cutmix-inversion"
    observation, _, _ = on_maps(2, at="3", per_sample=True)
    assert auto(observation, seeding.generator(1, "attack")).notes[0] == "won: cutmix-inversion"


def test_it_says_why_it_does_not_apply() -> None:
    with pytest.raises(NotApplicable, match="pastes a part of an example into another"):
        attacked(attack_named("cutmix-inversion"), 0, cutmix={"mode": "mixup"})
