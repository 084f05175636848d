"""The most probable image under known noise: the likelihood, and that it beats the wrong one."""

from typing import Any

import pytest

from fedsim.core.errors import NotApplicable
from fedsim.metrics.image import score_items
from tests.attacks.solving import attacked
from tests.federating import watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")
PLAIN = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}
SEARCH = {"max_iterations": 150, "schedule": "steps"}


def mean_psnr(name: str, defenses: list[dict[str, Any]], **settings: Any) -> float:
    values: list[float] = []
    for client in range(1):
        observation, truth, world = watched(client=client, knows=KNOWN, model=PLAIN, defenses=defenses)
        guess = attacked(name, observation, **SEARCH, **settings)
        values += [item.values["psnr"] for item in score_items(guess, truth.batches[0], world.data.dataset.spec).items]
    return sum(values) / len(values)


@pytest.mark.paper_step("map-estimate", "search for the most probable image")
@pytest.mark.parametrize(
    "noise",
    [
        {"scale": 0.03},
        pytest.param({"scale": 0.03, "law": "laplace"}, marks=pytest.mark.slow),
        pytest.param({"scale": 1.0, "relative": True}, marks=pytest.mark.slow),
        pytest.param({"scale": 1.0, "relative": True, "law": "laplace"}, marks=pytest.mark.slow),
    ],
    ids=["gaussian", "laplace", "relative gaussian", "relative laplace"],
)
def test_it_sees_more_than_an_attacker_who_matches_directions(noise: dict[str, Any]) -> None:
    defenses = [{"name": "gradient-noise", **noise}]
    assert mean_psnr("map-estimate", defenses) > mean_psnr("inverting-gradients", defenses) + 1.0


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_noise_on_unknown_slices_hides_nothing(batch_size: int) -> None:
    tables: dict[str, Any] = {
        "model": {**PLAIN, "width": 64},
        "defenses": [{"name": "grad-defense", "scale": 0.1}],
        "federation": {"batch_size": batch_size},
    }
    observation, truth, world = watched(knows=KNOWN, **tables)
    worst: dict[str, float] = {}
    for name in ("inverting-gradients", "map-estimate"):
        guess = attacked(name, observation, **{**SEARCH, "priors": [{"name": "total-variation", "weight": 1e-4}]})
        worst[name] = min(
            item.values["psnr"] for item in score_items(guess, truth.batches[0], world.data.dataset.spec).items
        )
    assert worst["inverting-gradients"] < 20
    assert worst["map-estimate"] > 40


def test_a_clipped_noisy_gradient_is_found_through_the_clipping() -> None:
    defenses = [{"name": "clipping", "norm": 0.3}, {"name": "gradient-noise", "scale": 3e-3}]
    observation, truth, world = watched(knows=KNOWN, model=PLAIN, defenses=defenses)
    guess = attacked("map-estimate", observation, **SEARCH)
    assert score_items(guess, truth.batches[0], world.data.dataset.spec).items[0].values["psnr"] > 18.0
    assert guess.objective < 1.0


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"defenses": [{"name": "clipping"}]}, "no defense says the law"),
        ({"defenses": [{"name": "gradient-noise", "scale": 0.0}]}, "no defense says the law"),
        (
            {
                "defenses": [{"name": "gradient-noise"}],
                "federation": {"algorithm": "fedavg", "local_steps": 1, "optimizer": {"name": "sgd"}},
            },
            "change of weights",
        ),
    ],
)
def test_what_it_cannot_model_it_refuses(tables: dict[str, Any], reason: str) -> None:
    observation, _, _ = watched(knows=KNOWN, **tables)
    with pytest.raises(NotApplicable, match=reason):
        attacked("map-estimate", observation, max_iterations=2)
