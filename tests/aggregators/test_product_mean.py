"""The mean of low-rank products against the explicit product, and the three ways of averaging LoRA side by side."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.aggregators.product_mean import ProductMean, ProductMeanConfig
from fedsim.components.adapter.lora import Lora, LoraConfig
from fedsim.components.core.low_rank import LowRankLinear
from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import ServerRound
from fedsim.core.nets.vectors import Layout
from fedsim.core.types import Contribution, Tensors
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.federating import run

TRAINED = {"algorithm": "fedavg", "clients": 3, "batch_size": 4, "local_steps": 4}
PLAIN = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(wide: int, high: int, rank: int) -> nn.Module:
    """One adapted layer behind a trained bias."""
    config = LoraConfig.model_validate({"targets": ["0"], "rank": rank})
    own = Lora(config).prepare(nn.Sequential(nn.Linear(wide, high), nn.LayerNorm(high)).double(), generator(0))
    return own.requires_grad_(True)


def combined(own: nn.Module, clients: int, examples: list[int]) -> tuple[list[Tensors], Tensors]:
    """What clients have after training, and what the server has."""
    layout = Layout(own)
    received = {name: p.detach() for name, p in own.named_parameters()}
    sent = [torch.randn(layout.size, generator=generator(k), dtype=torch.float64) for k in range(clients)]
    contributions = [Contribution(k, vector, examples[k]) for k, vector in enumerate(sent)]
    here = ServerRound(1, generator(0), clients, layout.size, received, layout)
    step = ProductMean(ProductMeanConfig()).combine(iter(contributions), here)
    after = [{n: received[n] - change for n, change in layout.unflatten(vector)[0].items()} for vector in (*sent, step)]
    return after[:-1], after[-1]


def product(weights: Tensors) -> Tensor:
    return weights["0.lora_b.weight"] @ weights["0.lora_a.weight"]


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 5), st.data())
def test_it_is_the_best_approximation_of_the_mean_product(wide: int, high: int, clients: int, data: Any) -> None:
    rank = data.draw(st.integers(1, min(wide, high)))
    examples = data.draw(st.lists(st.integers(1, 9), min_size=clients, max_size=clients))
    ours, server = combined(model(wide, high, rank), clients, examples)
    mean = sum(n * product(own) for n, own in zip(examples, ours, strict=True)) / sum(examples)
    u, values, v = torch.linalg.svd(mean)
    best = u[:, :rank] * values[:rank] @ v[:rank]
    assert torch.dist(product(server), mean) <= torch.dist(best, mean) + 1e-8
    assert server["0.lora_a.weight"].shape == (rank, wide)
    expected = sum(n * own["1.bias"] for n, own in zip(examples, ours, strict=True)) / sum(examples)
    assert torch.allclose(server["1.bias"], expected)


def test_every_row_of_a_lives_where_nothing_was_trained() -> None:
    own = model(6, 5, 3)
    layout = Layout(own)
    received = {name: p.detach() for name, p in own.named_parameters()}
    here = ServerRound(1, generator(0), 2, layout.size, received, layout)
    still = [Contribution(k, torch.zeros(layout.size, dtype=torch.float64), 1) for k in range(2)]
    step = layout.unflatten(ProductMean(ProductMeanConfig()).combine(still, here))[0]
    after = {name: received[name] - change for name, change in step.items()}
    assert not product(after).any()
    assert bool((after["0.lora_a.weight"].norm(dim=1) > 0.1).all())


def adapted(scenario: Callable[..., Scenario], rule: str, rounds: int = 1, **settings: Any) -> Scenario:
    component = {"name": "lora", "targets": ["4"], "rank": 2, **settings}
    return scenario(
        model=PLAIN, federation={**TRAINED, "rounds": rounds}, components=[component], aggregation={"name": rule}
    )


def changes(own: Scenario) -> tuple[Tensor, Tensor]:
    """The mean of the clients' products after round 2, by hand, and the server's product."""
    world = worlds.build(own)
    names = ("4.lora_a.weight", "4.lora_b.weight")
    first = worlds.build(own.model_copy(update={"federation": own.federation.model_copy(update={"rounds": 1})}))
    received = run(first.scenario).weights
    total, products = 0, torch.zeros(24, 24)
    for client in range(3):
        update, _ = local_training(world, received, 2, client)
        a, b = (received[name] - update.tensors.get(name, 0.0) for name in names)
        products += update.examples * b @ a
        total += update.examples
    after = run(own).weights
    return products / total, after[names[1]] @ after[names[0]]


def test_means_of_factors_are_no_mean_of_products_but_with_a_frozen(scenario: Callable[..., Scenario]) -> None:
    expected, separate = changes(adapted(scenario, "mean", 2))
    assert torch.dist(separate, expected) > 1e-3 * expected.norm()
    expected, frozen = changes(adapted(scenario, "mean", 2, trains="b"))
    assert torch.dist(frozen, expected) < 1e-5 * expected.norm()


def test_the_product_mean_is_nearer_to_the_mean_of_products_than_means_of_factors(
    scenario: Callable[..., Scenario],
) -> None:
    expected, found = changes(adapted(scenario, "product-mean", 2))
    left, values, right = torch.linalg.svd(expected)
    best = left[:, :2] * values[:2] @ right[:2]
    assert torch.dist(found, best) < 1e-3 * expected.norm()


def test_weights_that_were_averaged_act_as_merged(scenario: Callable[..., Scenario]) -> None:
    own = adapted(scenario, "product-mean", 2)
    world = worlds.build(own)
    trained = world.models.load_weights(run(own).weights).eval()
    layer = trained.get_submodule("4")
    assert isinstance(layer, LowRankLinear)
    x = torch.randn(5, 24, generator=generator(0))
    assert torch.allclose(layer.merge_adapter()(x), layer(x), atol=1e-5)


@pytest.mark.parametrize(
    ("changes_", "message"),
    [
        ({"federation": {**TRAINED, "algorithm": "fedsgd", "local_steps": 1}}, "Set federation.algorithm = 'fedavg'"),
        ({"components": []}, "trains no adapters with two factors"),
        (
            {"components": [{"name": "lora", "targets": ["4"], "rank": 2, "trains": "b"}]},
            "'mean', which is exact where A is frozen",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    changes_: dict[str, Any], message: str, scenario: Callable[..., Scenario]
) -> None:
    own = scenario(
        **{
            "model": PLAIN,
            "federation": TRAINED,
            "components": [{"name": "lora", "targets": ["4"], "rank": 2}],
            "aggregation": {"name": "product-mean"},
            **changes_,
        }
    )
    with pytest.raises(ScenarioError, match=message):
        worlds.build(own).check()


def test_secure_aggregation_hides_what_it_needs(scenario: Callable[..., Scenario]) -> None:
    with pytest.raises(ScenarioError, match="'product-mean' needs the updates of single clients"):
        scenario(
            model=PLAIN, federation=TRAINED, components=[{"name": "lora", "targets": ["4"], "rank": 2}],
            aggregation={"name": "product-mean"}, secure_aggregation={}, threat={"view": "sum"},
        )  # fmt: skip
