"""What a known defense did to a batch, undone."""

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Truth
from fedsim.core.types.effects import Transformed
from fedsim.metrics.image import score_items
from fedsim.scenario.world import World
from tests.attacks.mixed_batches.mixing import KNOWN, seen
from tests.federating import watched

FAST = ("inverting-gradients", "cpl", "gradinversion", "copa", "cocktail-party", "sme", "fedavg-inversion", "spear")


def auto(observation: Observation, *left_out: str) -> Reconstruction:
    method = registry.get("attack", "auto")
    settings = {"max_iterations": 30, "mask_iterations": 5, "leave_out": [*FAST, *left_out]}
    return method.make(method.config.model_validate(settings))(observation, seeding.generator(1, "attack"))


def worst(guess: Reconstruction, truth: Truth, world: World) -> float:
    return min(
        item.values["psnr"] for item in score_items(guess, truth.original_batches[0], world.data.dataset.spec).items
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "client"),
    [
        pytest.param("mixup", 2, 2, marks=pytest.mark.slow),
        pytest.param("mixup", 4, 0, marks=pytest.mark.slow),
        ("instahide", 4, 2),
    ],
)
def test_who_knows_that_images_were_mixed_has_them_back_unmixed(name: str, batch: int, client: int) -> None:
    observation, truth, world = seen(name, batch, client, "defenses")
    informed = auto(observation, "mixup-inversion")
    naive = auto(seen(name, batch, client)[0])
    assert worst(informed, truth, world) > 100
    assert worst(naive, truth, world) < 40
    assert informed.notes[0].startswith("undone: mixtures")
    assert "won: span-intersection" in informed.notes[1]


def test_who_knows_the_transforms_has_the_image_back_where_they_left_it() -> None:
    observation, truth, world = seen("ats", 1, 0, "defenses")
    informed, naive = auto(observation, "transform-inversion"), auto(seen("ats", 1, 0)[0])
    assert worst(informed, truth, world) > worst(naive, truth, world) + 4
    policies = observation.effects(Transformed)[0].functions
    true = truth.batches[0].inputs
    (used,) = [
        policy for policy in policies if torch.allclose(policy(truth.original_batches[0].inputs), true, atol=1e-5)
    ]
    assert informed.notes[0].startswith(f"undone: the policy '{used}'")


def test_where_nothing_is_exact_the_search_for_the_change_decides() -> None:
    observation, _, _ = watched(
        knows=(*KNOWN, "defenses"),
        client=2,
        model={"name": "convnet", "width": 8, "dropout": 0.0},
        defenses=[{"name": "mixup"}],
        federation={"batch_size": 2},
    )
    others = [
        name for name in registry.methods("attack", Attack) if name not in ("mixup-inversion", "dropout-inversion")
    ]
    guess = auto(observation, *(name for name in others if name not in FAST))
    assert "won: mixup-inversion" in guess.notes[0]
