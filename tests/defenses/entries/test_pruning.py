"""Top-k: how many entries are sent, which, and what becomes of the rest."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses.core.support import count_dropped
from fedsim.core.hooks import HookContext
from fedsim.core.types import Memory, Tensors
from fedsim.core.types.effects import Sparsified
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from tests.defenses.stepping import here, make, uploaded
from tests.federating import scenario

SHAPES = st.lists(st.lists(st.integers(1, 6), max_size=3).map(tuple), min_size=1, max_size=4)
RATES = st.floats(0.0, 0.99)


def few_values(shapes: list[tuple[int, ...]], seed: int) -> Tensors:
    """Tensors with many ties and zeros."""
    numbers = torch.Generator().manual_seed(seed)
    return {str(i): torch.randint(-2, 3, shape, generator=numbers).float() for i, shape in enumerate(shapes)}


@given(SHAPES, RATES, st.integers(0, 1000))
def test_exactly_k_entries_of_each_tensor_are_kept_also_with_ties(
    shapes: list[tuple[int, ...]], rate: float, seed: int
) -> None:
    tensors = {name: t.abs() + 1.0 for name, t in few_values(shapes, seed).items()}
    for name in ("pruning", "random-pruning"):
        sent = make(name, rate=rate).on_gradient(tensors, here())
        for key, tensor in tensors.items():
            assert int((sent[key] != 0).sum()) == tensor.numel() - count_dropped(tensor.numel(), rate)
            assert torch.equal(sent[key][sent[key] != 0], tensor[sent[key] != 0])


@given(SHAPES, RATES, st.integers(0, 1000))
def test_the_entries_kept_are_the_largest(shapes: list[tuple[int, ...]], rate: float, seed: int) -> None:
    tensors = few_values(shapes, seed)
    for per in ("tensor", "model"):
        sent = make("pruning", rate=rate, per=per).on_gradient(tensors, here())
        groups = [[name] for name in tensors] if per == "tensor" else [list(tensors)]
        for group in groups:
            whole, kept = (torch.cat([source[name].flatten().abs() for name in group]) for source in (tensors, sent))
            expected = whole.sort(descending=True).values[: len(whole) - count_dropped(len(whole), rate)]
            assert torch.equal(kept.sort(descending=True).values[: len(expected)], expected)
            assert float(kept.sum()) == float(expected.sum())


def test_per_model_a_small_tensor_may_lose_everything() -> None:
    tensors = {"small": torch.full((10,), 1e-3), "large": torch.ones(10)}
    assert not make("pruning", rate=0.5, per="model").on_gradient(tensors, here())["small"].any()
    assert int(make("pruning", rate=0.5).on_gradient(tensors, here())["small"].count_nonzero()) == 5


@given(SHAPES, RATES, st.sampled_from(["tensor", "model"]), st.integers(0, 1000))
def test_error_feedback_loses_nothing(shapes: list[tuple[int, ...]], rate: float, per: str, seed: int) -> None:
    defense = make("pruning", rate=rate, per=per, error_feedback=True)
    memory: dict[str, torch.Tensor] = {}
    old = {name: torch.zeros_like(t) for name, t in few_values(shapes, seed).items()}
    for step in range(3):
        tensors = few_values(shapes, seed + step)
        sent = defense.on_gradient(tensors, HookContext(1, 0, step, torch.Generator(), memory=memory))
        for name, tensor in tensors.items():
            assert torch.equal(sent[name] + memory[name], tensor + old[name])
        old = dict(memory)


@pytest.mark.parametrize("applies", ["per_step", "per_update"])
def test_over_the_rounds_of_a_client_nothing_is_lost(applies: str) -> None:
    settings: dict[str, Any] = {"rate": 0.9, "error_feedback": True, "applies": applies}
    world = worlds.build(scenario(defenses=[{"name": "pruning", **settings}]))
    memory: Memory = {}
    sent, raw = None, None
    for round_ in (1, 2, 3):
        update, _ = local_training(world, world.models.first_weights, round_, 0, memory)
        plain = worlds.build(scenario())
        honest, _ = local_training(plain, plain.models.first_weights, round_, 0)
        sent = update.tensors if sent is None else {n: sent[n] + t for n, t in update.tensors.items()}
        raw = honest.tensors if raw is None else {n: raw[n] + t for n, t in honest.tensors.items()}
    (kept,) = (own for owner, own in memory.items() if owner.startswith("defense"))
    assert all(torch.allclose(sent[name] + kept[name], raw[name], atol=1e-6) for name in raw)


def test_what_is_public() -> None:
    assert make("pruning", rate=0.75).adaptive_view().effects == (Sparsified(0.25),)
    assert make("random-pruning", rate=0.5).adaptive_view().effects == (Sparsified(0.5),)
    assert uploaded(make("pruning", rate=0.5, applies="per_update"), {"w": torch.ones(4)}, here())["w"].sum() == 2
