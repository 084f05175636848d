"""The ceiling of real clients: what defenses do to it, what exact attacks reach below it, and that nobody sees it."""

from typing import Any

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.types import WireEntry
from fedsim.federation.client import local_training
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.record import Ceiling
from fedsim.scenario import world as worlds
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim
from tests.conftest import KNOWN
from tests.experiment.running import Build
from tests.threat.reached import holds, tensors

BARE = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}


def victim(scenario: Build, **tables: Any) -> Victim:
    world = worlds.build(scenario(**{"model": BARE, **tables}))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    return Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth)


def psnr(scenario: Build, *defenses: dict[str, Any], **tables: Any) -> float:
    found = ceiling_of(victim(scenario, defenses=list(defenses), **tables)).ceiling
    assert found.psnr is not None, found.undefined
    return found.psnr


@pytest.mark.parametrize(
    ("model", "attack"),
    [(BARE, "closed-form-linear"), ({"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25}, "closed-form-linear")],
)
def test_exact_attacks_stay_below_the_ceiling_of_rounding(scenario: Build, model: dict[str, Any], attack: str) -> None:
    own = victim(scenario, model=model)
    method = registry.get("attack", attack)
    found = method.make(method.config())(observe(own, KNOWN), seeding.generator(0, "test"), lambda _step: None)
    record = score(own, found).record
    ceiling = ceiling_of(own).ceiling
    assert record.scores[0].values["psnr"] > 60  # it is exact
    assert record.scores[0].values["psnr"] <= ceiling.psnr
    assert 0 < ceiling.rank <= ceiling.inputs == 64


def test_noise_lowers_it_by_20_db_a_decade_until_the_prior_is_left(scenario: Build) -> None:
    levels = [psnr(scenario, {"name": "gradient-noise", "scale": s, "relative": True}) for s in (1e-4, 1e-3, 1e6)]
    assert levels[0] - levels[1] == pytest.approx(20.0, abs=0.5)  # some pixels are dead, and keep the prior's error
    own = victim(scenario)
    data = own.world.data.dataset
    variance = data.train.inputs.var(correction=0) * data.spec.std[0] ** 2
    assert levels[2] == pytest.approx(float(-10 * variance.log10()), abs=0.1)


def test_what_a_defense_takes_away_lowers_it(scenario: Build) -> None:
    bare = psnr(scenario)
    pruned = [psnr(scenario, {"name": "pruning", "rate": rate}) for rate in (0.9, 0.99)]
    assert bare > pruned[0] > pruned[1]
    assert psnr(scenario, {"name": "clipping", "norm": 1e-3}) <= bare + 1e-6
    assert psnr(scenario, {"name": "float16"}) < bare - 40
    assert psnr(scenario, {"name": "quantisation", "bits": 16}) < bare - 40
    assert psnr(scenario, {"name": "soteria"}) <= bare
    assert psnr(scenario, {"name": "local-dp", "noise_multiplier": 1.0}) < 20


def test_clipping_by_example_counts_each_of_them(scenario: Build) -> None:
    tables = {"federation": {"batch_size": 2, "sampling": "poisson", "clients": 4}}
    levels = [psnr(scenario, {"name": "dp-sgd", "noise_multiplier": m}, **tables) for m in (1e-6, 1e-4)]
    assert 30 < levels[0] - levels[1] <= 40.5  # two decades, where pixels are not dead


def test_a_larger_batch_and_hidden_masks_lower_it(scenario: Build) -> None:
    noise = {"name": "gradient-noise", "scale": 1e-2, "relative": True}
    assert psnr(scenario, noise, federation={"batch_size": 4}) < psnr(scenario, noise, federation={"batch_size": 1})
    dropped = ceiling_of(victim(scenario, model={"dropout": 0.25}, defenses=[noise])).ceiling
    assert dropped.psnr_masks_unknown <= dropped.psnr


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"defenses": [{"name": "sign"}]}, "not defined for sign"),
        ({"defenses": [{"name": "quantisation", "bits": 1}]}, "steps wider than the spread"),
        ({"federation": {"batch_size": 2}, "defenses": [{"name": "mixup"}]}, "not defined for mixup"),
    ],
)
def test_where_it_is_not_defined_it_says_so_and_is_never_0(
    scenario: Build, tables: dict[str, Any], reason: str
) -> None:
    found = ceiling_of(victim(scenario, **tables)).ceiling
    assert reason in found.undefined
    assert found.psnr is None


def test_more_entries_than_it_takes_are_estimated_where_time_is_given(scenario: Build) -> None:
    own = victim(scenario)
    assert "too many" in ceiling_of(own, largest=10).ceiling.undefined
    exact, found = ceiling_of(own).ceiling, ceiling_of(own, largest=10, seconds=5.0).ceiling
    assert found.psnr_low <= exact.psnr <= found.psnr_high


def test_no_observation_holds_it(scenario: Build) -> None:
    own = victim(scenario)
    found = ceiling_of(own)
    assert isinstance(found.ceiling, Ceiling)
    assert found.known_share is not None
    seen = tensors(observe(own, KNOWN))
    assert seen
    assert not holds(seen, found.known_share)
    assert not holds(seen, torch.tensor(found.ceiling.psnr))


def test_it_is_the_same_twice(scenario: Build) -> None:
    assert ceiling_of(victim(scenario)).ceiling == ceiling_of(victim(scenario)).ceiling
