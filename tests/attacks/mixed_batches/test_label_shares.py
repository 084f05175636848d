"""Both labels, their weights and the originals behind CutMix composites, on small networks trained for real."""

from typing import Any

import pytest
import torch

from attacks.mixed_batches.label_shares import label_shares
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Truth
from fedsim.metrics.composites import with_composites
from fedsim.metrics.image import score_items
from fedsim.record import ItemScore
from fedsim.scenario.world import World
from tests.attacks.solving import attack_named
from tests.federating import watched

KNOWN = ("batch-size", "dropout-rates", "input-statistics", "components")


def observed(client: int, **changes: Any) -> tuple[Observation, Truth, World]:
    cutmix = {"name": "cutmix", "probability": 1.0, "mode": changes.pop("mode", "cutmix")}
    cutmix["per_sample"] = changes.pop("per_sample", False)
    tables = {
        "model": {"name": "mlp", "width": 96, "depth": 2, "dropout": 0.25},
        "data": {"name": "mnist5k"},
        "federation": {"clients": 50, "batch_size": 4},
        "components": [cutmix],
        "knows": KNOWN,
    }
    return watched(client=client, **{**tables, **changes})


def attacked(attack: Attack[Any], client: int, **changes: Any) -> tuple[Reconstruction, tuple[ItemScore, ...]]:
    observation, truth, world = observed(client, **changes)
    found = attack(observation, seeding.generator(1, "attack"))
    (examples,), spec = truth.original_batches, world.data.dataset.spec
    return found, with_composites(score_items(found, examples, spec), found, truth, examples, spec)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("client", range(3))
def test_from_the_true_composites_and_masks_the_shares_are_exact(client: int, per_sample: bool) -> None:
    observation, truth, _ = observed(client, per_sample=per_sample)
    shares = label_shares(observation, truth.batches[0].inputs, truth.masks[0])
    assert torch.allclose(shares, truth.batches[0].labels.double(), atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.25, marks=pytest.mark.slow)])
def test_one_box_for_the_batch_hides_nothing_whether_it_is_known_or_not(dropout: float) -> None:
    model = {"name": "mlp", "width": 96, "depth": 2, "dropout": dropout}
    for knows in (KNOWN, (*KNOWN, "client-randomness")):
        found, items = attacked(attack_named("label-shares"), 1, model=model, knows=knows)
        assert found.is_exact
        assert found.objective < 1e-9
        assert min(item.values["psnr"] for item in items) > 100
        assert min(item.values.get("psnr_trained") or 0.0 for item in items) > 100
        assert all(item.values.get("minor_found") in (True, None) for item in items)
        assert sorted(found.labels.tolist()) == sorted(item.label for item in items)


def test_a_box_for_every_image_leaves_the_composites_and_the_seen_parts() -> None:
    shown, composites = attacked(attack_named("label-shares"), 2, per_sample=True)
    told, originals = attacked(attack_named("label-shares"), 2, per_sample=True, knows=(*KNOWN, "client-randomness"))
    assert shown.is_exact
    assert told.is_exact
    for items in (composites, originals):
        assert min(item.values.get("psnr_trained") or 0.0 for item in items) > 100
        assert min(item.values.get("psnr_seen") or 0.0 for item in items) > 100
    is_whole = [item.index for item in originals if item.values.get("seen") == 1.0]
    assert all(originals[index].values["psnr"] > 100 for index in is_whole)
    assert sum(item.values["psnr"] for item in originals) >= sum(item.values["psnr"] for item in composites) - 1.0


def test_one_local_step_gives_composites_and_labels_up_to_the_rounding_of_the_weights() -> None:
    federation = {"clients": 50, "batch_size": 4, "algorithm": "fedavg", "local_steps": 1}
    found, items = attacked(attack_named("label-shares"), 1, federation=federation)
    assert found.trained_batch is not None
    assert min(item.values.get("psnr_trained") or 0.0 for item in items) > 50
    assert all(item.values.get("minor_found") in (True, None) for item in items)
    assert max(item.values.get("share_error") or 0.0 for item in items) < 0.01


def test_blended_images_stay_blended_but_their_labels_are_read() -> None:
    found, items = attacked(attack_named("label-shares"), 0, mode="mixup")
    assert found.is_exact
    assert min(item.values.get("psnr_trained") or 0.0 for item in items) > 100
    assert min(item.values["psnr"] for item in items) < 40
    assert all(item.values.get("minor_found") in (True, None) for item in items)


def test_it_says_why_it_does_not_apply() -> None:
    attack = attack_named("label-shares")
    with pytest.raises(NotApplicable, match="no component in use mixes inputs and their labels"):
        attacked(attack, 0, mode="cutout")
    with pytest.raises(NotApplicable, match="no exact attack applies"):
        attacked(attack, 0, model={"name": "lenet", "dropout": 0.0}, data={"name": "digits", "size": 32})
