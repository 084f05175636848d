"""What an observer of a generation gets holds what its views show, and a walk finds nothing else."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Event, Generated, Limits, Trace, TraceObservation, TraceView
from fedsim.generation import generate, sample
from fedsim.questions.generation.observe import VIEWS, observe_trace
from tests.components.generating import LEAKING, Denoiser, make, prompts, sources, tiny_llama
from tests.threat.reached import holds, reachable, tensors

PROMPT = (LEAKING, 3001, 3002)
MANY = 4000
OWN_WORDS = {*VIEWS, "drawn", "trials", "layers.1"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A model that writes large token numbers alone, so that none is mistaken for a count."""
    plain = tiny_llama(MANY)
    plain.register_forward_hook(lambda _, _read, scores: scores.index_fill(-1, torch.arange(1000), -torch.inf))
    return plain


@pytest.fixture(scope="module")
def generated(model: nn.Module) -> Generated:
    limits = Limits(max_new_tokens=7)
    (found,) = generate(make("toy-leaky"), model, prompts(PROMPT), limits, sources(1), cuts=["layers.1"])
    assert min(found.tokens) >= 1000
    return found


EVERY = [views for size in range(1, len(VIEWS) + 1) for views in combinations(VIEWS, size)]


def numbers(observation: TraceObservation, kind: type) -> list[float]:
    return [item for item in reachable(observation) if type(item) is kind]  # type: ignore[misc]


@pytest.mark.parametrize("views", EVERY, ids="+".join)
def test_a_walk_finds_what_is_granted_and_nothing_else(
    views: tuple[TraceView, ...], generated: Generated, model: nn.Module
) -> None:
    observation = observe_trace(generated, views)
    assert observation.views == views
    whole = numbers(observation, int)
    assert whole or numbers(observation, float) or tensors(observation), "the walk found nothing: it proves nothing"
    assert not set(PROMPT[1:]) & set(whole)
    assert bool(set(generated.tokens) & set(whole)) is ("outputs" in views)
    assert ("counts" in views) is (observation.counts is not None)
    assert {item for item in reachable(observation) if isinstance(item, Event | Trace | Generated | nn.Module)} == set()
    shown = [item for item in reachable(observation) if isinstance(item, str)]
    assert set(shown) <= OWN_WORDS | set(TraceObservation.__dataclass_fields__)
    assert ("trials" in shown) is ("work" in views)
    assert set(numbers(observation, float)) == (set(generated.seconds) if "timing" in views else set())
    found = tensors(observation)
    assert bool(found) is ("activations" in views)
    storages = {own.untyped_storage().data_ptr() for own in found}
    secrets = [own for step in generated.activations for _, own in step]
    assert not any(secret.untyped_storage().data_ptr() in storages for secret in secrets)
    assert not any(holds(found, parameter) for parameter in model.parameters())


def test_views_show_their_own_parts(generated: Generated) -> None:
    assert generated.trace.tokens == (2, 2, 2, 1)
    assert observe_trace(generated, ["counts"]).counts == (2, 2, 2, 1)
    assert observe_trace(generated, ["work"]).work == {"drawn": (2, 2, 2, 2), "trials": (1, 1, 1, 1)}
    assert observe_trace(generated, ["outputs"]).output == generated.tokens
    assert observe_trace(generated, ["timing"]).seconds == generated.seconds
    crossed = observe_trace(generated, ["activations"]).activations
    assert [own.shape[1] for step in crossed for _, own in step] == [3, 5, 7, 9]


def test_a_step_that_sends_nothing_is_no_packet() -> None:
    quiet = Generated(Trace((1, 0, 2), (Event(trials=1), Event(trials=9), Event(trials=2))), "length", (5, 6, 7))
    assert observe_trace(quiet, ["counts"]).counts == (1, 2)
    assert observe_trace(quiet, ["work"]).work == {"trials": (1, 9, 2)}


def test_places_are_part_of_the_text_alone() -> None:
    filled = Generated(Trace((1, 2), (Event(trials=1),) * 2, ((1,), (0, 2))), "length", (5, 6, 7))
    for view in VIEWS[:4]:
        assert observe_trace(filled, [view]).places == (filled.trace.places if view == "outputs" else None)


def test_a_sample_is_copied_and_sends_no_tokens() -> None:
    (drawn,) = sample(make("toy-euler"), Denoiser(), GenerationInputs(((),)), (3, 4, 4), sources(1))
    seen = observe_trace(drawn, ["outputs", "counts"])
    assert isinstance(seen.output, torch.Tensor)
    assert isinstance(drawn.x, torch.Tensor)
    assert torch.equal(seen.output, drawn.x)
    assert seen.output.data_ptr() != drawn.x.data_ptr()
    assert seen.counts == ()


def test_the_toy_leaks_its_bit_through_counts_and_greedy_text_leaks_its_length_alone() -> None:
    texts = [(first, *rest) for first in (LEAKING, 1) for rest in ((2,), (3, 4), (5, 6, 8))]
    for name, told in (("toy-leaky", {(2, 2): True, (1, 1, 1, 1): False}), ("greedy", {(1, 1, 1, 1): None})):
        found = generate(make(name), tiny_llama(), prompts(*texts), Limits(max_new_tokens=4), sources(6))
        counts = [observe_trace(own, ["counts"]).counts for own in found]
        assert all(told[count] in (text[0] == LEAKING, None) for count, text in zip(counts, texts, strict=True))  # type: ignore[index]


def test_wrong_views_are_named(generated: Generated) -> None:
    with pytest.raises(FedsimError, match="unknown view 'count' of a generation. Did you mean 'counts'"):
        observe_trace(generated, ["count", "work", "times"])  # type: ignore[list-item]
    with pytest.raises(FedsimError, match="at least one view. Known: outputs, counts, work, timing, activations"):
        observe_trace(generated, [])
    with pytest.raises(FedsimError, match=r"none were recorded. Name the modules .* cuts=\[...\]"):
        observe_trace(replace(generated, activations=()), ["activations"])
