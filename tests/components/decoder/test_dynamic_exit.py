"""DEL: what its sheet says must hold."""

import random
from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from torch import nn

from fedsim.components.decoder import dynamic_exit
from fedsim.components.decoder._odds import DrawConfig
from fedsim.components.decoder.dynamic_exit import Agreement, Exiting, choose, tokens_per_layer
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, greedy, make, prompts, sources, tiny_llama
from tests.components.laws import follows, law

DEPTH = 4
ROUNDING = 1e-9  # double precision: sums in another order, through four layers


@pytest.fixture
def model() -> nn.Module:
    return tiny_llama(blocks=DEPTH).eval()


@pytest.fixture
def asked() -> list[list[int]]:
    source = random.Random(3)
    return [source.choices(range(VOCABULARY), k=source.randint(1, 40)) for _ in range(20)]


def silenced(model: nn.Module, first: int) -> nn.Module:
    """Let the layers from a number on pass everything through."""
    with torch.no_grad():
        for number in range(first, DEPTH):
            model.get_parameter(f"layers.{number}.self_attn.o_proj.weight").zero_()
            model.get_parameter(f"layers.{number}.mlp.down_proj.weight").zero_()
    return model


def rounds(model: nn.Module, text: list[int], count: int, **settings: object) -> Iterator[Exiting]:
    """Yield the states of one text."""
    method, (source,) = make("dynamic-exit", **settings), sources(1)
    context = GenerationContext((source,), Limits(max_new_tokens=1000))
    with torch.no_grad():
        state = method.start(model, prompts(text), context)
        for _ in range(count):
            state, _events = method.step(model, state, context)
            yield state


def check_greedy(model: nn.Module, asked: list[list[int]], dynamic: bool) -> None:
    method, limits = make("dynamic-exit", dynamic=dynamic), Limits(max_new_tokens=8)
    texts = generate(method, model, prompts(*asked), limits, sources(len(asked)), batch_size=len(asked))
    assert [list(text.tokens) for text in texts] == greedy(model, asked, 8)


@pytest.mark.paper_step("dynamic-exit", "a draft ends where it is unsure")
@pytest.mark.parametrize("choices", [[(1, 3)], [(3, 17)], [(1, 0), (2, 5), (3, 1), (2, 0)]])
def test_at_temperature_zero_it_is_greedy_whatever_is_chosen(
    model: nn.Module, asked: list[list[int]], choices: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = cycle(choices)
    monkeypatch.setattr(dynamic_exit, "choose", lambda *_: next(forced))
    check_greedy(model, asked[:4], dynamic=False)
    check_greedy(model, asked[4:8], dynamic=True)


def check_law(vocabulary: int, draws: int, top_p: float) -> None:
    model, prompt = tiny_llama(vocabulary, blocks=3).eval(), [1, 2]
    method = make("dynamic-exit", temperature=1.0, top_p=top_p, longest=3)
    texts = generate(
        method, model, prompts(*[prompt] * draws), Limits(max_new_tokens=3), sources(draws), batch_size=draws
    )
    expected = law(model, prompt, vocabulary, 3, DrawConfig(temperature=1.0, top_p=top_p))
    assert follows([text.tokens for text in texts], expected)


def test_texts_follow_the_law_of_the_model() -> None:
    check_law(3, 200, 0.9)


def test_the_expected_tokens_of_a_layer_are_a_geometric_sum() -> None:
    for rate in (0.0, 0.3, 0.9):
        for length in range(6):
            closed = (1 - rate ** (length + 1)) / (1 - rate) / (30 + length * 7)
            assert tokens_per_layer(rate, 30, 7, length) == pytest.approx(closed)
    assert tokens_per_layer(1.0, 30, 7, 5) == pytest.approx(6 / 65)


@pytest.mark.paper_step("dynamic-exit", "exit and length of the largest expected tokens per layer")
def test_the_choice_is_the_best_of_the_grid_and_of_equals_the_smallest() -> None:
    source = random.Random(0)
    for _ in range(20):
        known = {own: Agreement(matches=source.random(), misses=source.random()) for own in (2, 5, 11)}
        found = choose(known, 12, 18)
        best = max(tokens_per_layer(known[own].rate, 12, own, length) for own in known for length in range(18))
        assert tokens_per_layer(known[found[0]].rate, 12, *found) == best
        dear = choose(known, 12, 18, scoring=6.0)
        every = ((own, length) for own in known for length in range(18))
        assert dear == max(every, key=lambda own: tokens_per_layer(known[own[0]].rate, 12, own[0] + 6.0, own[1]))
    never = {own: Agreement(misses=1.0) for own in (3, 1, 2)}
    assert choose(never, 4, 18) == (1, 0)
    assert choose({1: Agreement(), 2: Agreement(matches=1.0)}, 4, 18) == (2, 17), "nothing is known of the first"


def test_an_exit_that_always_agrees_is_taken_and_one_that_never_does_drafts_nothing() -> None:
    *_, last = rounds(silenced(tiny_llama(blocks=DEPTH).eval(), 2), [1, 2, 3], 4)
    exits = last.exits[0]
    assert exits.agreements[2].rate == exits.agreements[3].rate == 1.0
    assert exits.agreements[1].rate < 1
    assert (exits.layers, exits.length) == (2, 17)
    model = tiny_llama(blocks=DEPTH).eval()
    with torch.no_grad():  # the layers up to the last say the opposite of what comes out
        head = model.get_parameter("lm_head.weight")
        head[0], head[1:] = 0.0, 0.0
        model.get_parameter("embed_tokens.weight")[:, 1:] = 0.0
        head[0, 0], head[1, 0] = 1.0, -1.0
        model.get_parameter("embed_tokens.weight")[:, 0] = -1.0
        silenced(model, 0)
        down = model.get_parameter("layers.3.mlp.down_proj.weight")
        up, gate = (model.get_parameter(f"layers.3.mlp.{name}_proj.weight") for name in ("up", "gate"))
        up.zero_(), gate.zero_()
        up[0, 0], gate[0, 0], down[0, 0] = -1.0, -9.0, 9.0
    *_, last = rounds(model, [1, 2, 3], 3)
    assert all(own.rate == 0 for own in last.exits[0].agreements.values())
    assert last.exits[0].length == 0


@pytest.mark.paper_step("dynamic-exit", "decayed counts of agreement by layer")
@pytest.mark.parametrize("length", [3, 40])
def test_counts_are_those_of_a_pass_over_the_text_that_stands(model: nn.Module, length: int) -> None:
    prompt = random.Random(1).choices(range(VOCABULARY), k=length)
    *_, state = rounds(model, prompt, 6, decay=1.0)
    text = state.tokens[0]
    first = max(0, length - 32)  # of a long prompt, the last 32 positions alone
    stack = model.stack()  # type: ignore[operator]
    hidden: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for number in range(DEPTH):
            model.get_submodule(f"layers.{number}").register_forward_hook(
                lambda _m, _a, out, number=number: hidden.__setitem__(number + 1, out)
            )
        said = model(torch.tensor([text[:-1]]))[0, first:].argmax(-1)
        for layers, own in state.exits[0].agreements.items():
            confidence, token = stack.score(hidden[layers])[0, first:].softmax(-1).max(-1)
            agrees = token == said
            assert (own.matches, own.misses) == (int(agrees.sum()), int((~agrees).sum()))
            assert own.sure_matches == pytest.approx(float(confidence[agrees].sum()), abs=ROUNDING)
            assert own.sure_misses == pytest.approx(float(confidence[~agrees].sum()), abs=ROUNDING)


def test_old_counts_decay() -> None:
    agreement, n, u, omega = Agreement(), 7, 3, 0.9
    for _ in range(n):
        agreement = agreement.update_statistics(omega, torch.tensor([True] * u + [False]), torch.full((u + 1,), 0.5))
    assert agreement.matches == pytest.approx(u * (1 - omega**n) / (1 - omega))
    assert agreement.sure_misses == pytest.approx(0.5 * (1 - omega**n) / (1 - omega))
    assert agreement.threshold == pytest.approx(0.5)
    assert Agreement(matches=1.0, sure_matches=0.4).threshold == 0.0


def test_after_every_round_what_is_read_is_the_text_that_stands(model: nn.Module) -> None:
    for state in rounds(model, [1, 2, 3], 6):
        text = list(state.tokens[0])
        past = state.exits[0].past.keep([0])
        with torch.no_grad():
            (scores,) = past.scores(model, [text])
            torch.testing.assert_close(scores[0], model(torch.tensor([text]))[0, -1], rtol=0, atol=ROUNDING)
        assert past.key_counts == [[len(text)]] * DEPTH
        read = state.exits[0].past
        assert len(text) - 1 <= read.lengths[0]


def test_exits_that_the_model_does_not_have_are_refused(model: nn.Module) -> None:
    for exits in ((0,), (DEPTH,)):
        with pytest.raises(FedsimError, match=r"expected numbers of layers from 1 to 3: the model has 4"):
            generate(make("dynamic-exit", exits=exits), model, prompts([1]), Limits(max_new_tokens=1), sources(1))
    with pytest.raises(FedsimError, match="cannot find the layers of this model"):
        generate(make("dynamic-exit"), nn.Sequential(model), prompts([1]), Limits(max_new_tokens=1), sources(1))
