"""ALLoRA against its formulas, against LoRA, under every way of differentiating, and inside a federation."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from fedsim.components.adapter.allora import Allora, AlloraConfig, AlloraLinear, product_norms
from fedsim.components.adapter.lora import LoraConfig, LoraLinear
from fedsim.components.core.low_rank import LowRankLinear
from fedsim.core.errors import ScenarioError
from fedsim.federation.client import local_training
from fedsim.federation.cohort import ROUNDING, check, cohort_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

ETA = 3.0
FAMILY = [
    {"power": "sqrt", "norm": "B"},
    {"power": "sqrt", "norm": "BA"},
    {"power": "inverse", "norm": "B"},
    {"power": "inverse", "norm": "BA"},
    {"power": "sqrt", "dependence": "output"},
    {"power": "inverse", "dependence": "output"},
]


def config(**settings: Any) -> AlloraConfig:
    return AlloraConfig.model_validate({"targets": ["*"], "rank": 3, "eta": ETA, **settings})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(seed: int | None = 1, **settings: Any) -> AlloraLinear:
    """In double precision; with a random B unless the seed is None."""
    base = nn.Linear(7, 5).double()
    base.weight.data.copy_(torch.randn(5, 7, generator=generator(2), dtype=torch.float64))
    own = cast("AlloraLinear", Allora(config(**settings)).prepare(nn.Sequential(base), generator()).get_submodule("0"))
    if seed is not None:
        own.lora_b.weight.data.copy_(torch.randn(5, 3, generator=generator(seed), dtype=torch.float64))
    return own


def twin(own: LowRankLinear) -> LoraLinear:
    """LoRA with s = 1 and p = 0, and the same weights."""
    settings = LoraConfig.model_validate({"targets": ["*"], "rank": 3, "alpha": 3.0})
    other = LoraLinear(own.base, settings, generator()).to(own.base.weight.dtype)
    other.load_state_dict(own.state_dict())
    return other


def inputs(seed: int = 3, examples: int = 4) -> Tensor:
    return torch.randn(examples, 2, 7, generator=generator(seed), dtype=torch.float64)


def gradients(own: LowRankLinear, x: Tensor, into: Tensor) -> tuple[Tensor, ...]:
    """Of A, B and x, for dL/dy = `into`."""
    x = x.requires_grad_()
    return torch.autograd.grad((own(x) * into).sum(), [own.lora_a.weight, own.lora_b.weight, x])


def into(seed: int = 4, examples: int = 4) -> Tensor:
    return torch.randn(examples, 2, 5, generator=generator(seed), dtype=torch.float64)


def by_hand(own: AlloraLinear, x: Tensor, g: Tensor) -> Tensor:
    """c from the formula, shape (5,) or that of g."""
    settings = own._config
    a, b = own.lora_a.weight.detach(), own.lora_b.weight.detach()
    rows = b if settings.norm == "B" else b @ a
    norms = (x @ a.T @ b.T).abs() if settings.dependence == "output" else rows.square().sum(1).sqrt()
    return 1 / (norms + 1 / ETA**2).sqrt() if settings.power == "sqrt" else 1 / (norms + 1 / ETA)


@pytest.mark.paper_step("allora", "no dropout and no scale")
@pytest.mark.parametrize("settings", [*FAMILY, {"power": "none"}, {"apply_to": "update"}])
def test_the_model_starts_unchanged_bit_by_bit_and_the_output_is_that_of_the_formula(settings: dict[str, Any]) -> None:
    fresh = layer(None, **settings)
    assert torch.equal(fresh(inputs()), fresh.base(inputs()))
    own = layer(**settings)
    expected = own.base(inputs()) + inputs() @ (own.lora_b.weight @ own.lora_a.weight).T
    assert torch.allclose(own(inputs()), expected, atol=1e-12)
    assert torch.allclose(own.merge_adapter()(inputs()), expected, atol=1e-12)


@pytest.mark.parametrize("settings", FAMILY)
def test_at_zero_a_has_no_gradient_and_that_of_b_is_eta_times_that_of_lora(settings: dict[str, Any]) -> None:
    own = layer(None, **settings)
    found, plain = gradients(own, inputs(), into()), gradients(twin(own), inputs(), into())
    assert not found[0].any()
    assert torch.allclose(found[1], ETA * plain[1], rtol=1e-12)
    assert torch.equal(found[2], plain[2])


@pytest.mark.paper_step("allora", "gradients of A and B with the factors, inputs without")
@pytest.mark.parametrize("settings", FAMILY)
def test_gradients_are_those_of_the_formula(settings: dict[str, Any]) -> None:
    own, x, g = layer(**settings), inputs(), into()
    a, b = own.lora_a.weight.detach(), own.lora_b.weight.detach()
    weighed = (g * by_hand(own, x, g)).flatten(0, 1)
    rows = x.flatten(0, 1)
    found = gradients(own, x, g)
    assert torch.allclose(found[0], b.T @ weighed.T @ rows, rtol=1e-10)
    assert torch.allclose(found[1], weighed.T @ (rows @ a.T), rtol=1e-10)
    assert torch.allclose(found[2], g @ (own.base.weight + b @ a), rtol=1e-10)
    if own._config.dependence == "weight":
        plain = gradients(twin(own), x, g)
        assert torch.allclose(found[1], own.factors().unsqueeze(1) * plain[1], rtol=1e-10)


@pytest.mark.paper_step("allora", "factor of each row from the norm of its product")
@given(
    st.sampled_from(["sqrt", "inverse"]),
    st.floats(0.1, 20),
    st.lists(st.floats(0, 1e6), min_size=2, max_size=20, unique=True),
)
def test_factors_fall_with_the_norm_from_eta_on(power: str, eta: float, norms: list[float]) -> None:
    own = config(power=power, eta=eta)
    found = own.factors(torch.tensor([0.0, *sorted(norms)], dtype=torch.float64))
    assert torch.allclose(found[0], torch.tensor(eta, dtype=torch.float64), rtol=1e-12)
    assert bool((found.diff() <= 0).all())


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 100))
def test_norms_of_products_are_those_of_the_explicit_product(rank: int, wide: int, high: int, seed: int) -> None:
    a = torch.randn(2, rank, wide, generator=generator(seed), dtype=torch.float64)
    b = torch.randn(2, high, rank, generator=generator(seed + 1), dtype=torch.float64)
    b[:, 0] = 0.0
    assert torch.allclose(product_norms(a, b), (b @ a).norm(dim=-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [*FAMILY, {"power": "none"}])
def test_the_gradient_can_be_differentiated_again_by_everything_that_it_depends_on(settings: dict[str, Any]) -> None:
    own = layer(**settings)

    def gradient(x: Tensor, a: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        weights = {"lora_a.weight": a, "lora_b.weight": b}
        outputs = torch.func.functional_call(own, weights, (x,))
        return torch.autograd.grad((outputs * g).sum(), [a, b, x], create_graph=True)

    leaves = (inputs(), own.lora_a.weight.detach().clone(), own.lora_b.weight.detach().clone(), into())
    assert torch.autograd.gradcheck(gradient, tuple(leaf.requires_grad_() for leaf in leaves))


def test_at_zero_second_derivatives_are_finite() -> None:
    own = layer(None, norm="BA")
    found = torch.autograd.grad(
        (own(inputs()) * into()).sum(), [own.lora_a.weight, own.lora_b.weight], create_graph=True
    )
    second = torch.autograd.grad(sum(g.square().sum() for g in found), [own.lora_b.weight])
    assert bool(torch.isfinite(second[0]).all())


@pytest.mark.parametrize("settings", [*FAMILY, {"power": "none"}])
def test_per_example_gradients_by_vmap_are_those_of_single_examples(settings: dict[str, Any]) -> None:
    own, x, g = layer(**settings), inputs(), into()
    weights = {"lora_a.weight": own.lora_a.weight.detach(), "lora_b.weight": own.lora_b.weight.detach()}

    def loss(given: dict[str, Tensor], one: Tensor, own_into: Tensor) -> Tensor:
        return (torch.func.functional_call(own, given, (one,)) * own_into).sum()

    of_each = cast("Callable[..., dict[str, Tensor]]", torch.func.vmap(torch.func.grad(loss), (None, 0, 0)))
    found = of_each(weights, x, g)
    for index in range(len(x)):
        alone = gradients(own, x[index : index + 1].clone(), g[index : index + 1])
        assert torch.allclose(found["lora_a.weight"][index], alone[0], rtol=1e-10)
        assert torch.allclose(found["lora_b.weight"][index], alone[1], rtol=1e-10)


FEDERATION = {"algorithm": "fedavg", "local_steps": 3, "batch_size": 2}


def weighed_world(scenario: Callable[..., Scenario], optimizer: dict[str, Any], **settings: Any) -> worlds.World:
    component = {"name": "allora", "targets": ["4", "7"], "rank": 2, "eta": ETA, **settings}
    model = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}
    return worlds.build(
        scenario(model=model, federation={**FEDERATION, "optimizer": optimizer}, components=[component])
    )


def test_an_adam_client_s_steps_are_weighed_by_what_the_weights_were(scenario: Callable[..., Scenario]) -> None:
    adam = {"name": "adam", "learning_rate": 0.01}
    world = weighed_world(scenario, adam, apply_to="update")
    own = {name: t.clone() for name, t in world.models.first_weights.items() if name in world.models.parameters}
    gradient = {name: torch.randn(t.shape, generator=generator()) for name, t in own.items()}
    expected = {name: t.clone() for name, t in own.items()}
    state: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    for _ in range(3):
        before = {name: t.clone() for name, t in own.items()}
        world.stack.step(own, gradient, state)
        world.stack.optimizer.step(expected, gradient, other)
        for name, moved in own.items():
            if name.endswith("lora_b.weight"):
                norms = (before[name] @ before[name.replace("lora_b", "lora_a")]).norm(dim=1, keepdim=True)
                c = 1 / (norms + 1 / ETA**2).sqrt()
                expected[name] = before[name] + c * (expected[name] - before[name])
            assert torch.allclose(moved, expected[name], rtol=1e-5, atol=1e-7)
        expected = {name: t.clone() for name, t in own.items()}


def test_by_default_a_row_of_the_product_counts_and_eta_squared_is_four() -> None:
    own = AlloraConfig.model_validate({"targets": ["*"]})
    assert (own.norm, own.eta, own.power, own.dependence, own.apply_to) == ("BA", 2.0, "sqrt", "weight", "gradient")
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0], [0.15]])
    # Rows of B A have norms 0 and 0.15 * 5 = 3/4, so c is 1 / sqrt(1/4) and 1 / sqrt(3/4 + 1/4).
    assert own.row_factors(a, b).tolist() == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize(
    "settings", [{}, {"norm": "B"}, {"dependence": "output"}, {"apply_to": "update"}, {"power": "none"}]
)
def test_clients_trained_together_get_what_they_get_alone(
    settings: dict[str, Any], scenario: Callable[..., Scenario]
) -> None:
    world = weighed_world(scenario, {"name": "sgd"}, **settings)
    check(world)
    together = cohort_training(world, world.models.first_weights, 1, [0, 1, 2], [{}, {}, {}])
    for client, vector in enumerate(together.vectors):
        alone, _ = local_training(world, world.models.first_weights, 1, client)
        expected = world.models.layout.flat(alone.tensors, alone.buffers)
        assert torch.dist(vector, expected) <= ROUNDING * expected.norm()


def test_the_server_undoes_the_factors_of_a_gradient_exactly(scenario: Callable[..., Scenario]) -> None:
    """A step onwards, so that the factors differ: dB / c is LoRA's, from public weights alone."""
    names = ("4.lora_b.weight", "7.lora_b.weight")
    tables = {"model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}, "federation": {"batch_size": 2}}
    lora = {"name": "lora", "targets": ["4", "7"], "rank": 2, "alpha": 2.0}
    worlds_ = [
        worlds.build(scenario(components=[component], **tables))
        for component in ({"name": "allora", "targets": ["4", "7"], "rank": 2, "eta": ETA}, lora)
    ]
    weights = dict(worlds_[0].models.first_weights)
    for name in names:
        weights[name] = 0.1 * torch.randn(weights[name].shape, generator=generator())
    sent, plain = (local_training(world, weights, 1, 0)[0].tensors for world in worlds_)
    for name in names:
        product = weights[name] @ weights[name.replace("lora_b", "lora_a")]
        c = 1 / (product.norm(dim=1, keepdim=True) + 1 / ETA**2).sqrt()
        assert float(c.max() / c.min()) > 1.01
        assert torch.allclose(sent[name] / c, plain[name], rtol=1e-4, atol=1e-8)


def test_what_does_not_fit_is_refused_in_one_sentence(scenario: Callable[..., Scenario]) -> None:
    with pytest.raises(ValidationError, match="expected dependence = 'weight'"):
        config(apply_to="update", dependence="output")
    component = {"name": "allora", "targets": ["4"], "rank": 2, "apply_to": "update"}
    world = worlds.build(scenario(components=[component]))
    with pytest.raises(ScenarioError, match="'fedsgd' has none"):
        world.check()


def test_without_a_power_it_trains_bit_by_bit_like_lora_with_scale_one() -> None:
    ours = layer(None, power="none").float()
    theirs = twin(ours).float()
    for own in (ours, theirs):
        optimizer = torch.optim.SGD([own.lora_a.weight, own.lora_b.weight], lr=0.1, momentum=0.5)
        for step in range(5):
            optimizer.zero_grad()
            (own(inputs(step).float()) * into(step).float()).sum().backward()
            optimizer.step()
    assert torch.equal(ours.lora_a.weight, theirs.lora_a.weight)
    assert torch.equal(ours.lora_b.weight, theirs.lora_b.weight)


def test_factors_follow_the_weights_from_step_to_step() -> None:
    own = layer(None)
    optimizer = torch.optim.SGD([own.lora_a.weight, own.lora_b.weight], lr=0.1)
    seen = [own.factors()]
    for step in range(3):
        optimizer.zero_grad()
        plain = gradients(twin(own), inputs(step), into(step))[1]
        (own(inputs(step)) * into(step)).sum().backward()
        found = own.lora_b.weight.grad
        assert found is not None
        assert torch.allclose(found, seen[-1].unsqueeze(1) * plain, rtol=1e-10)
        optimizer.step()
        seen.append(own.factors())
    assert bool((seen[1] < seen[0]).all())
