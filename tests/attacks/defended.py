"""Attacks on a client with a defense."""

from typing import Any

from fedsim.core import seeding
from fedsim.core.types import Reconstruction
from fedsim.metrics.image import score_items
from tests.attacks.solving import KNOWN, attack_named
from tests.federating import watched

PLAIN = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}


def attacked(
    attack: str,
    defense: str | None,
    *,
    model: dict[str, Any] = PLAIN,
    batch: int = 1,
    client: int = 0,
    **settings: Any,
) -> tuple[float, Reconstruction]:
    """Attack one client, and return the mean PSNR of what was found."""
    defenses = [] if defense is None else [{"name": defense}]
    knows = KNOWN if attack == "inverting-gradients" else (*KNOWN, "defenses")
    observation, truth, world = watched(
        knows=knows, client=client, model=model, defenses=defenses, federation={"batch_size": batch}
    )
    with seeding.isolate_randomness(1):  # an attacker who ignores noise inside the model draws it where torch does
        own = {"max_iterations": 400, "sign": "soft", "schedule": "cosine", **settings}
        found = attack_named(attack, **own)(observation, seeding.generator(5, "attack"))
    items = score_items(found, truth.original_batches[0], world.data.dataset.spec).items
    return sum(item.values["psnr"] for item in items) / len(items), found
