"""Window-Diffusion against full passes: where the two must agree, what the window hides, and what is counted."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedsim.components.unmasker.window_diffusion import Phase, Windowed
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Limits
from tests.components.generating import make, prompts, sources
from tests.components.unmasking import Fixed, run, tiny_llada

PROMPTS = [[1, 2, 3], [4, 5, 6]]
SMALL = {"window": 4, "active": 2, "refresh": 3}


def stepped(model: nn.Module, places: int = 10, **settings: Any) -> list[tuple[Any, Windowed]]:
    """The method, and the state before each step of one text."""
    method = make("window-diffusion", **settings)
    context = GenerationContext(tuple(sources(1)), Limits(max_new_tokens=places))
    with torch.no_grad():
        states = [method.start(model, prompts([1, 2, 3]), context)]
        while states[-1].masked_positions[0]:
            states.append(method.step(model, states[-1], context)[0])
    return [(method, state) for state in states[:-1]]


def phase_of(method: Any, state: Windowed) -> Phase | None:
    return method._open_phase(state, 0)


@pytest.mark.paper_step("window-diffusion", "full passes fill the cache")
@pytest.mark.parametrize("steps", [None, 4])
def test_with_a_full_pass_every_step_it_is_plain_decoding(steps: int | None) -> None:
    plain = run("fixed", tiny_llada(), PROMPTS, 10, steps=steps)
    own = run("window-diffusion", tiny_llada(), PROMPTS, 10, steps=steps, refresh=1)
    assert [(one.tokens, one.trace.places) for one in own] == [(one.tokens, one.trace.places) for one in plain]


def test_one_layer_and_a_window_over_everything_have_the_scores_of_full_passes() -> None:
    model = tiny_llada(blocks=1)
    everything = {"window": 10, "active": 10, "refresh": 99, "keeps_refreshed": True}
    for method, state in stepped(model, **everything):
        with torch.no_grad():
            scores, at, _ = method.read(model, state, 0)
            whole = model(torch.tensor([state.tokens[0]]))[0]
        torch.testing.assert_close(scores, whole[list(at)], rtol=0, atol=1e-10)  # sums in double precision
    plain = run("fixed", model, PROMPTS, 10)
    own = run("window-diffusion", model, PROMPTS, 10, **everything)
    assert [(one.tokens, one.trace.places) for one in own] == [(one.tokens, one.trace.places) for one in plain]


class Shifted(nn.Module):
    """A model whose state at a place scores the next place's token."""

    is_shifted = True

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own, self.mask_token = own, own.mask_token

    def forward(self, tokens: Tensor) -> Tensor:
        return self._placed(self.own(tokens))

    def read(self, tokens: Tensor, positions: Tensor, store: Any) -> Tensor:
        return self._placed(self.own.read(tokens, positions, store))  # type: ignore[operator]

    def _placed(self, scores: Tensor) -> Tensor:
        return torch.cat((scores[:, :1], scores[:, :-1]), 1)


@pytest.mark.paper_step("window-diffusion", "cached states serve the others")
@pytest.mark.parametrize("model", [tiny_llada(blocks=3), Shifted(tiny_llada(blocks=3))])
def test_behind_a_fresh_cache_that_shows_everything_a_part_has_the_scores_of_a_full_pass(model: nn.Module) -> None:
    method, state = stepped(model, window=10, active=3, refresh=5)[1]
    phase = state.phase[0]
    assert phase is not None
    with torch.no_grad():
        # Fresh keys: those of the text as it stands now, the newest token among them.
        fresh, at, cache = method.read(model, replace(state, phase=(None,)), 0)
        filled = Phase(tuple(cache.keys), tuple(cache.values), tuple(range(13)), phase.again, 1)
        part, some, _ = method.read(model, replace(state, phase=(filled,)), 0)
    is_open = [place in state.masked_positions[0] for place in some]
    scored = [number for number, masked in enumerate(is_open) if masked or not isinstance(model, Shifted)]
    assert sum(is_open) == 3
    torch.testing.assert_close(part[scored], fresh[list(some)][scored], rtol=0, atol=1e-10)
    assert len(some) < len(at)


@pytest.mark.paper_step("window-diffusion", "near masked places are computed, more are seen")
def test_what_lies_behind_the_window_changes_nothing_bit_for_bit() -> None:
    model = tiny_llada()
    for method, state in stepped(model, **SMALL):
        phase = phase_of(method, state)
        if phase is None:
            continue
        hidden = [place for place in range(13) if place not in phase.attended_positions]
        noisy = [own.clone() for own in phase.keys]
        for own in noisy:
            own[:, :, hidden] = torch.randn(
                own[:, :, hidden].shape, generator=torch.Generator().manual_seed(0)
            ).double()
        other = replace(state, phase=(phase._replace(keys=tuple(noisy)),))
        with torch.no_grad():
            assert torch.equal(method.read(model, state, 0)[0], method.read(model, other, 0)[0])
    first = phase_of(*stepped(model, **SMALL)[1])
    assert first is not None
    assert len(first.attended_positions) == 3 + 1 + 4  # prompt, the token of the full pass, and the window


@pytest.mark.parametrize("steps", [None, 5])
def test_every_step_writes_what_is_due_and_near_the_left_end(steps: int | None) -> None:
    for own in run("window-diffusion", tiny_llada(), PROMPTS, 10, steps=steps, **SMALL):
        assert own.trace.tokens == ((1,) * 10 if steps is None else (2,) * 5)
        masked = set(range(10))
        for step, refreshed in zip(own.trace.places, own.trace.series()["refreshed"], strict=True):
            if not refreshed:
                assert set(step) <= set(sorted(masked)[:2])
            masked -= set(step)


def test_places_and_pairs_are_those_of_the_cost_model() -> None:
    (own,) = run("window-diffusion", tiny_llada(), PROMPTS[:1], 8, **SMALL)
    series = own.trace.series()
    assert series["refreshed"] == (1, 0, 0, 1, 0, 0, 1, 0)
    # Between full passes: two masked places, and the token of the full pass once, then those that were written since.
    assert series["positions"] == (11, 3, 3, 11, 3, 3, 11, 2)
    seen = (11, 3 + 1 + 4, 3 + 1 + 4, 11, 3 + 4 + 4, 3 + 4 + 4, 11, 11)
    assert series["pairs"] == tuple(a * b for a, b in zip(series["positions"], seen, strict=True))


def test_a_token_of_a_full_pass_is_computed_once_or_until_the_next() -> None:
    once, always = (
        [
            method.select_computed(tiny_llada(), state, 0)
            for method, state in stepped(tiny_llada(), keeps_refreshed=keeps, **SMALL)[1:3]
        ]
        for keeps in (False, True)
    )
    (first,) = {*range(3, 13)} - {*stepped(tiny_llada(), **SMALL)[1][1].masked_positions[0]}
    assert [first in own for own in once] == [True, False]
    assert [first in own for own in always] == [True, True]


def test_settings_and_models_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValidationError, match="active is 5 and window 4"):
        make("window-diffusion", active=5, window=4)
    with pytest.raises(FedsimError, match="cannot be evaluated at chosen positions only"):
        run("window-diffusion", Fixed(torch.zeros(4, 5)), [[]], 4)
