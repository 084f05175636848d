"""Neighbouring batches through a client's own step: DP-SGD as it is passes, and one that forgets its noise does not."""

from collections.abc import Callable
from typing import Any, ClassVar, final

import pytest
import torch

from fedsim.core import registry
from fedsim.core.hooks import Defense, HookContext, PublicFederation
from fedsim.core.types import Config, Mechanism, MethodDescription, Tensors
from fedsim.experiment.guaranteeing import guarantees
from fedsim.privacy.coupled import Coupled
from fedsim.questions.audit.neighbours import try_neighbours
from fedsim.record import RoundRecord
from fedsim.scenario import world as worlds
from tests.experiment.running import Build

TABLES: dict[str, Any] = {
    "federation": {"clients": 4, "batch_size": 30, "sampling": "poisson"},
    "model": {"name": "mlp", "width": 8, "depth": 2, "dropout": 0.0},
}


def dp_sgd(noise: float) -> Defense[Any]:
    method = registry.get("defense", "dp-sgd")
    return method.make(method.config.model_validate({"noise_multiplier": noise}))


def tried(scenario: Build, *defenses: dict[str, Any], **federation: Any) -> Coupled | None:
    tables = {**TABLES, "federation": {**TABLES["federation"], **federation}}
    world = worlds.build(scenario(defenses=list(defenses), **tables))
    (stated,) = guarantees(world, [RoundRecord.model_construct(cohort=(0, 1, 2, 3))])
    return try_neighbours(world, stated, 0)


def test_dp_sgd_moves_as_far_as_it_states_and_no_further(scenario: Build) -> None:
    outcome = tried(scenario, {"name": "dp-sgd", "noise_multiplier": 2.0})
    assert outcome.faults == ()
    assert outcome.neighbours == 81
    assert 0.8 < outcome.distance / outcome.max_distance <= 1.0  # measured noise of few entries is known within a tenth


@pytest.mark.slow
@pytest.mark.usefixtures("own_methods")
def test_less_noise_than_is_stated_is_noticed(scenario: Build) -> None:
    @final
    @registry.defense("quiet", summary="adds half of its noise")
    class Quiet(Defense[Config]):
        place: ClassVar[Any] = "examples"
        needs_step: ClassVar[bool] = True

        def on_examples(self, losses: Callable[[], torch.Tensor], here: HookContext) -> tuple[float, Tensors]:
            return dp_sgd(1.0).on_examples(losses, here)

        def mechanism(self, federation: PublicFederation) -> Mechanism | None:
            return dp_sgd(2.0).mechanism(federation)

        def adaptive_view(self) -> MethodDescription:
            return MethodDescription("quiet")

    outcome = tried(scenario, {"name": "quiet"})
    assert "one record moves the output by" in outcome.faults[0]


def test_a_client_that_is_alone_is_compared_with_its_own_rounds(scenario: Build) -> None:
    outcome = tried(scenario, {"name": "dp-sgd", "noise_multiplier": 2.0}, clients=1)
    assert outcome.faults == ()


def test_several_private_steps_of_a_round_are_not_compared(scenario: Build) -> None:
    assert tried(scenario, {"name": "dp-sgd"}, algorithm="fedavg", local_steps=2) is None
