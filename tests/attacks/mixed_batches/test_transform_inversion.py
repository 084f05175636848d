"""Images behind known transforms, searched through each of them."""

import pytest
import torch

from fedsim.core.types.effects import Transformed
from tests.attacks.defended import attacked
from tests.federating import watched

ALL = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")
MLP = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("client", [0, 2])
def test_ats_stops_the_naive_attacker_and_not_the_one_who_searches_through_the_policies(client: int) -> None:
    naive, _ = attacked("inverting-gradients", "ats", client=client)
    informed, found = attacked("transform-inversion", "ats", client=client)
    assert informed > naive + 3
    observation, truth, _ = watched(knows=ALL, client=client, model=MLP, defenses=[{"name": "ats"}])
    true = truth.batches[0].inputs
    policies = observation.effects(Transformed)[0].functions
    (used,) = [
        policy for policy in policies if torch.allclose(policy(truth.original_batches[0].inputs), true, atol=1e-5)
    ]
    assert f"'{used}'" in found.notes[-1]
