"""What private uploads promise: clipping, noise alone for what is unusable, and nothing else that tells."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import ScenarioError
from fedsim.core.types import Tensors
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from tests.defenses.noise.uploads import SECURE, make, sent
from tests.federating import scenario

METHODS = ["local-dp", "distributed-dp"]


def joint(tensors: Tensors) -> float:
    return float(torch.stack([t.double().norm() for t in tensors.values()]).norm())


@pytest.mark.paper_step("distributed-dp", "update clipped by the client")
@pytest.mark.parametrize("name", METHODS)
@given(
    st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4), st.integers(0, 99), st.floats(0.01, 9)
)
def test_an_update_of_any_shapes_is_clipped_jointly_scalars_included(name, shapes, seed, clip) -> None:
    numbers = torch.Generator().manual_seed(seed)
    tensors = {str(i): 5 * torch.randn(shape, generator=numbers) for i, shape in enumerate(shapes)}
    before = {key: t.clone() for key, t in tensors.items()}
    found = sent(make(name, clip=clip, noise_multiplier=0.0), tensors).tensors
    factor = min(1.0, clip / joint(tensors))
    assert joint(found) <= clip * (1 + 1e-6)
    assert all(torch.allclose(found[key], t * factor, rtol=1e-5) for key, t in before.items())
    assert all(torch.equal(tensors[key], t) for key, t in before.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_short_update_without_noise_is_sent_bit_by_bit(name) -> None:
    tensors = {"w": torch.randn(5, 3), "scale": torch.tensor(0.5)}
    found = sent(make(name, clip=1e6, noise_multiplier=0.0), tensors).tensors
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, 0.0])
def test_zero_and_unusable_updates_become_noise_alone(name, spoilt) -> None:
    """Refusing one would tell that the client's data spoilt it."""
    tensors = {"w": torch.full((50_000,), spoilt), "scale": torch.tensor(3.0 if spoilt else 0.0)}
    found = sent(make(name, clip=0.5, noise_multiplier=2.0), tensors).tensors
    zero = sent(make(name, clip=0.5, noise_multiplier=2.0), {key: t * 0 for key, t in tensors.items()}).tensors
    assert all(torch.isfinite(t).all() for t in found.values())
    assert float(found["w"].std()) == pytest.approx(1.0, rel=0.02)
    if spoilt == 0.0:
        assert torch.equal(found["w"], zero["w"])


@pytest.mark.parametrize("name", METHODS)
def test_nothing_else_of_the_upload_tells_of_the_data(name) -> None:
    found = sent(make(name), {"w": torch.ones(3)}, {"mean": torch.ones(4)})
    assert (found.examples, found.loss) == (1, 0.0)
    assert torch.equal(found.buffers["mean"], torch.zeros(4))


@pytest.mark.parametrize("name", METHODS)
def test_noise_differs_by_client_and_round_and_repeats_for_the_same(name) -> None:
    tables = SECURE if name == "distributed-dp" else {}
    world = worlds.build(scenario(**tables, defenses=[{"name": name}]))

    def upload(round_: int, client: int) -> torch.Tensor:
        update, _ = local_training(world, world.models.first_weights, round_, client)
        return world.models.layout.flat(update.tensors, update.buffers)

    assert torch.equal(upload(1, 0), upload(1, 0))
    found = [upload(1, 0), upload(1, 1), upload(2, 0)]
    assert all(torch.dist(a, b) > 1e-3 for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize(
    ("tables", "settings", "reason"),
    [
        ({}, {"name": "distributed-dp"}, r"Add \[secure_aggregation\], or use local-dp"),
        (SECURE, {"name": "distributed-dp", "noise_multiplier": 100.0}, "Widen the range"),
        (
            {**SECURE, "secure_aggregation": {"mode": "ideal", "levels": 64}},
            {"name": "distributed-dp", "noise_multiplier": 0.1},
            "below two steps of rounding",
        ),
        (SECURE, {"name": "distributed-dp", "delta": 0.5}, "expected below 1/4"),
        ({}, {"name": "local-dp", "delta": 0.5}, "expected below 1/4"),
    ],
)
def test_what_breaks_the_guarantee_is_refused(tables, settings, reason) -> None:
    world = worlds.build(scenario(**tables, defenses=[settings]))
    with pytest.raises(ScenarioError, match=reason):
        world.check()
