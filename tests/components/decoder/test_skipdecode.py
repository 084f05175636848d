"""SkipDecode: what its sheet says must hold."""

import random
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.components.core.layer_schedule import LayerSchedule
from fedsim.components.decoder.skipdecode import read_by_schedule
from fedsim.core.errors import FedsimError
from fedsim.core.nets.kv_cache import DecodingCache
from fedsim.core.types import Generated, Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, greedy, make, prompts, sources, tiny_llama

DEPTH = 6
ROUNDING = 1e-9  # double precision: sums in another order, through six layers


@pytest.fixture
def model() -> nn.Module:
    return tiny_llama(blocks=DEPTH).eval()


def write(model: nn.Module, asked: list[list[int]], count: int = 12, **settings: Any) -> list[Generated]:
    method, limits = make("skipdecode", **settings), Limits(max_new_tokens=count)
    return generate(method, model, prompts(*asked), limits, sources(len(asked)))


def test_with_all_layers_it_is_greedy(model: nn.Module) -> None:
    asked = [[1, 2, 3], [4], [5, 6, 1, 1]]
    every: list[dict[str, Any]] = [{"speed_up": 1.0}, {"first": DEPTH, "last": DEPTH}]
    for settings in every:
        assert [list(own.tokens) for own in write(model, asked, **settings)] == greedy(model, asked, 12)
    assert [list(own.tokens) for own in write(model, asked)] != greedy(model, asked, 12), "the control"


def teacher_forced(model: nn.Module, text: list[int], prompt: int, schedule: LayerSchedule) -> torch.Tensor:
    """Scores (T, V) of a pass over the whole text, where each token jumps over its layers; written out anew."""
    block: Any
    hidden = model.get_submodule("embed_tokens")(torch.tensor([text]))
    later = torch.full((len(text), len(text)), -torch.inf, dtype=hidden.dtype).triu(1)
    for number in range(DEPTH):
        block = model.get_submodule(f"layers.{number}")
        runs = [place < prompt or number in schedule.layers(place - prompt) for place in range(len(text))]
        sees = later.clone()
        sees[:, ~torch.tensor(runs)] = -torch.inf  # has no keys; such a token's own query goes nowhere
        sees[torch.arange(len(text)), torch.arange(len(text))] = 0.0
        new = block(hidden, attention_mask=sees[None, None])
        hidden = torch.where(torch.tensor(runs)[None, :, None], new, hidden)
    return model.get_submodule("lm_head")(model.get_submodule("norm")(hidden))[0]


@pytest.mark.paper_step("skipdecode", "kept keys serve later tokens")
@torch.no_grad()
def test_what_is_kept_gives_the_scores_of_a_pass_over_the_whole_text(model: nn.Module) -> None:
    schedule, past = LayerSchedule(DEPTH, 5, 2, 1, 8), DecodingCache()
    source = random.Random(2)
    texts = [source.choices(range(VOCABULARY), k=length) for length in (15, 18)]
    sizes = [3, 6]
    expected = [teacher_forced(model, text, size, schedule) for text, size in zip(texts, sizes, strict=True)]
    for count in range(13):
        shown = [tuple(text[: size + count]) for text, size in zip(texts, sizes, strict=True)]
        kept = read_by_schedule(model, past, shown, sizes, schedule)
        anew = read_by_schedule(model, DecodingCache(), shown, sizes, schedule)
        for row, size in enumerate(sizes):
            torch.testing.assert_close(kept[row][0], expected[row][size + count - 1], rtol=0, atol=ROUNDING)
            torch.testing.assert_close(kept[row], anew[row], rtol=0, atol=ROUNDING)
        for layer in range(DEPTH):
            ran = sum(layer in schedule.layers(number) for number in range(count))
            assert past.key_counts[layer] == [size + ran for size in sizes]


@pytest.mark.paper_step("skipdecode", "layers of each token from the schedule")
def test_no_layer_is_called_for_a_token_outside_its_set(model: nn.Module) -> None:
    calls = [0] * DEPTH
    for number in range(DEPTH):

        def count(_block: nn.Module, inputs: tuple[torch.Tensor, ...], _out: object, number: int = number) -> None:
            calls[number] += inputs[0].shape[0] * inputs[0].shape[1]

        model.get_submodule(f"layers.{number}").register_forward_hook(count)
    texts = write(model, [[1, 2, 3], [4, 5, 6]], 10, first=5, last=2, expected_tokens=7)
    schedule = LayerSchedule(DEPTH, 5, 2, 1, 7)
    sets = [schedule.layers(number) for number in range(9)]  # the tenth token is written and never read
    assert calls == [2 * (3 + sum(number in layers for layers in sets)) for number in range(DEPTH)]
    assert [text.trace.series()["layers"] for text in texts] == [(DEPTH, *map(len, sets))] * 2


def test_work_is_the_same_for_every_text(model: nn.Module) -> None:
    texts = write(model, [[1, 2, 3], [4], [5, 6, 1, 1, 2, 3, 3]])
    assert len({text.tokens for text in texts}) == 3
    assert len({text.trace.series()["layers"] for text in texts}) == 1


def test_settings_that_do_not_fit_are_refused(model: nn.Module) -> None:
    for settings in ({"first": 7, "last": 2}, {"first": 2, "last": 3}, {"first": 3, "last": 1}):
        with pytest.raises(FedsimError, match=r"expected warm_up < last <= first <= 6, the layers of the model"):
            write(model, [[1]], **settings)
    with pytest.raises(ValueError, match="first and last belong together"):
        make("skipdecode", first=3)
    with pytest.raises(FedsimError, match="decoder 'skipdecode' runs single layers"):
        write(nn.Sequential(model), [[1]])
