"""What decoders, unmaskers, samplers and reducers count is what ran: compared with hooks on the layers of a model."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.hooks import Generation, GenerationInputs, VisualTokenReducer
from fedsim.core.types import Generated, Limits
from fedsim.generation import generate, sample
from tests.components.generating import denoiser_for, make, names, prompts, sources, tiny_llama
from tests.components.unmasking import tiny_llada
from tests.models.vlms import examples, small_vlm

LONG = [1 + place % 20 for place in range(40)]  # behind which 'dynamic-exit' takes a pass of its own
TEXTS = ([1, 2], [5, 6, 7] * 4, LONG)
DEPTH = 3
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "speculative": [{"layers": 1}, {"layers": 2, "sure": 0.3, "temperature": 1.0}],
    "dynamic-exit": [{}, {"exits": (1,), "temperature": 1.0}],
    "aded": [{"prompt": True}],
    "sure-spans": [{"beta": 0.0}, {"beta": 0.0, "temperature": 1.0}],
    "cntp": [{"temperature": 1.0}],
    "beam": [{"width": 3}],
    "skipdecode": [{"expected_tokens": 4}],
    "lora-drop": [{"cycle": 3}],
    "one-unsure-place": [{}, {"branches": 2}],
    "running-confidence": [{}, {"steps": 3}, {"steps": 4, "block": 4}],
    "remdm": [{}, {"steps": 16, "eta": 0.5, "temperature": 1.0}],
    "window-diffusion": [{}, {"window": 4, "active": 2, "refresh": 3}],
    "skip-tuning": [{}, {"solver": "euler"}],
    "continuous-speculative": [{}, {"length": 0}, {"length": 2, "prefill": 0.5}],
}


def variants(*hooks: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    every = [name for hook in hooks for name in names(*hook)]
    return [(name, settings) for name in every for settings in SETTINGS.get(name, [{}])]


class Call(NamedTuple):
    """One run of a module: its name, and the rows and hidden states of what it read."""

    module: str
    rows: int
    states: int


class Watch:
    """Calls of modules in each step of a method; those of its start belong to the first.

    A single token that is read at the start shows how many tokens a model knows, and is no part of the work.
    """

    def __init__(self, method: Generation[Any, Any], model: nn.Module, modules: list[str]) -> None:
        self.steps: list[list[Call]] = []
        self._calls: list[Call] = []
        for name in modules:
            model.get_submodule(name).register_forward_hook(self._noting(name))
        take, begin = method.step, method.start

        def start(*arguments: Any) -> Any:
            state = begin(*arguments)
            self._calls[:] = [call for call in self._calls if call.states > 1]
            return state

        def step(*arguments: Any) -> Any:
            answer = take(*arguments)
            self.steps.append(self._calls[:])
            self._calls.clear()
            return answer

        method.start, method.step = start, step  # type: ignore[method-assign]

    def _noting(self, name: str) -> Any:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
            self._calls.append(Call(name, len(inputs[0]), inputs[0].shape[:-1].numel()))

        return note


def layers_of(model: nn.Module, kind: str = "layers") -> list[str]:
    return [f"{kind}.{number}" for number, _ in enumerate(model.get_submodule(kind).children())]


def compared(found: Generated, watch: Watch) -> Iterator[tuple[dict[str, int], list[Call]]]:
    assert len(found.trace.events) == len(watch.steps) > 0
    for event, calls in zip(found.trace.events, watch.steps, strict=True):
        yield dict(event), calls


@pytest.mark.parametrize("text", TEXTS, ids=len)
@pytest.mark.parametrize(("name", "settings"), variants(("decoder", "text")))
def test_a_decoder_counts_the_layers_and_rows_that_ran(name: str, settings: dict[str, Any], text: list[int]) -> None:
    model, method = tiny_llama(blocks=DEPTH), make(name, **settings)
    watch = Watch(method, model, [*layers_of(model), "norm"])
    (found,) = generate(method, model, prompts(text), Limits(max_new_tokens=12), sources(1))
    for event, calls in compared(found, watch):
        ran = [call for call in calls if call.module != "norm"]
        if "layers" in event:
            assert event["layers"] == len(ran)
        elif "rows" in event:
            assert event["rows"] * DEPTH == sum(call.rows for call in ran)
        else:
            assert len(ran) == DEPTH, "a step is one full pass"
        if "scored" in event:
            assert event["scored"] == sum(call.states for call in calls if call.module == "norm")


@pytest.mark.parametrize(("name", "settings"), variants(("decoder", "text")))
def test_what_is_accepted_was_proposed_and_stands_in_the_text(name: str, settings: dict[str, Any]) -> None:
    stops = frozenset({3, 4, 9, 11})
    asked = prompts(*[[first, 2, first, 2] for first in range(12)])
    limits = Limits(max_new_tokens=9, stop_tokens=stops, context=11)
    texts = generate(make(name, **settings), tiny_llama(blocks=DEPTH), asked, limits, sources(12))
    assert {text.ending for text in texts} & {"stop", "context"}
    for text in texts:
        series = text.trace.series()
        accepted = series.get("accepted", (0,) * len(text.trace.tokens))
        assert all(taken <= new for taken, new in zip(accepted, text.trace.tokens, strict=True))
        if "proposed" in series:
            assert all(taken <= drafted for taken, drafted in zip(accepted, series["proposed"], strict=True))
        if name in ("speculative", "dynamic-exit", "aded", "sure-spans"):
            *before, last = zip(accepted, text.trace.tokens, strict=True)
            assert all(taken == new - 1 for taken, new in before), "one token of each step is the model's own"
            assert last[1] - last[0] in ({0, 1} if text.ending == "stop" else {1})
        elif "accepted" in series:
            assert accepted == text.trace.tokens, "of several ways one stands"


@pytest.mark.parametrize(("name", "settings"), variants(("unmasker",)))
def test_an_unmasker_counts_the_places_that_went_through_the_layers(name: str, settings: dict[str, Any]) -> None:
    model, method = tiny_llada(12), make(name, **settings)
    watch = Watch(method, model, ["layers.0"])
    (found,) = generate(method, model, prompts([1, 2]), Limits(max_new_tokens=8), sources(1))
    for event, calls in compared(found, watch):
        assert event["positions"] == sum(call.states for call in calls)
        if "rows" in event:
            assert event["rows"] == sum(call.rows for call in calls)


@pytest.mark.parametrize(("name", "settings"), variants(("sampler",)))
def test_a_sampler_counts_the_passes_of_its_models(name: str, settings: dict[str, Any]) -> None:
    model, method = denoiser_for(name), make(name, **settings)
    watch = Watch(method, model, ["blocks.0" if name == "continuous-speculative" else "convolution"])
    (found,) = sample(method, model, GenerationInputs(((),)), (3, 4, 4), sources(1))
    for event, calls in compared(found, watch):
        assert len(calls) == (event["evaluations"] if "evaluations" in event else event["passes"] + event["drafted"])


def test_a_decoder_that_contrasts_two_branches_counts_both() -> None:
    for strength, rows in ((0.0, 1), (1.0, 2)):
        model, method = small_vlm(), make("damro", strength=strength, outliers=2)
        watch = Watch(method, model, ["layers.0"])
        images, question, _ = examples(1)
        condition = GenerationInputs((tuple(question[0].tolist()),), {"image": images})
        (found,) = generate(method, model, condition, Limits(max_new_tokens=3), sources(1))
        for event, calls in compared(found, watch):
            assert event["rows"] == rows == len(calls)


@pytest.mark.parametrize(
    "name", [name for name in names("token_reducer") if isinstance(make(name), VisualTokenReducer)]
)
def test_a_reducer_counts_the_visual_tokens_that_the_last_layer_read(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    model = make(name).prepare(small_vlm(blocks=6), generator).double()
    images, question, _ = examples(1)
    text = sum(part.shape[1] for part in model.laid_out(question))
    method = make("damro", strength=0.0, outliers=1)
    watch = Watch(method, model, ["layers.5"])
    condition = GenerationInputs((tuple(question[0].tolist()),), {"image": images})
    (found,) = generate(method, model, condition, Limits(max_new_tokens=3), sources(1))
    ((first, (prompt,)), *later) = compared(found, watch)
    assert first["kept.reducers.0"] == prompt.states - text > 0
    assert all(event.get("kept.reducers.0", 0) == 0 and call.states == 1 for event, (call,) in later)
