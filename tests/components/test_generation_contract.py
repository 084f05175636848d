"""What every decoder, sampler, token reducer and probe promises. Driven by the registry, with a toy of each."""

import copy
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import GenerationInputs, VisualTokenReducer
from fedsim.core.nets.kept_tokens import kept_tokens, reducing_places
from fedsim.core.nets.visual import VisualReducer, visual_passes
from fedsim.core.types import Generated, Limits
from fedsim.generation import Piece, generate, probe, sample
from tests.components.generating import (
    LEAKING,
    Breaking,
    denoiser_for,
    make,
    names,
    prompts,
    sources,
    tiny_llama,
)
from tests.components.unmasking import Broken, MaskAmongWords, tiny_llada
from tests.models.vlms import examples, small_vlm

DECODERS, SAMPLERS, UNMASKERS = names("decoder", "text"), names("sampler"), names("unmasker")
VISUAL = [name for name in names("token_reducer") if isinstance(make(name), VisualTokenReducer)]
REDUCERS, PROBES = [name for name in names("token_reducer") if name not in VISUAL], names("probe")
ASKED = prompts([1, 2, 3], [LEAKING], [4, 5], [LEAKING, 6, 9, 2, 2])
LIMITS = Limits(max_new_tokens=5, stop_tokens=frozenset({3}), context=9)
SHAPE = (3, 4, 4)


@contextmanager
def untouched(model: nn.Module, method: object) -> Iterator[None]:
    """Check that neither weights, modes, gradients and hooks of a model, nor a method, nor global randomness change."""

    def state() -> tuple[object, ...]:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modules = [
            (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
        ]
        randomness = (torch.random.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()))
        return (
            weights,
            modules,
            [parameter.grad for parameter in model.parameters()],
            randomness,
            copy.deepcopy(vars(method)),
        )

    before = state()
    yield
    after = state()
    assert all(torch.equal(before[0][name], tensor) for name, tensor in after[0].items())  # type: ignore[index]
    assert before[1:] == after[1:]


def texts(
    name: str, condition: GenerationInputs = ASKED, batch_size: int = 8, model: nn.Module | None = None
) -> list[Generated]:
    own = model or tiny_llama()
    return generate(make(name), own, condition, LIMITS, sources(len(condition)), batch_size=batch_size)


def drawn(name: str, places: tuple[int, ...] = (0, 1, 2), model: nn.Module | None = None) -> list[Generated]:
    every = GenerationInputs(((),) * 3, {"class": torch.tensor([0, 2, 1])})
    own = model or denoiser_for(name)
    return sample(make(name), own, every.keep(places), SHAPE, [sources(3)[place] for place in places])


def alike(first: Generated, second: Generated) -> bool:
    """The same but for the rounding of sums, which the size of a batch may change: of 27 terms, in up to ten steps."""
    if (first.x is None) != (second.x is None):
        return False
    if first.x is not None and second.x is not None:
        torch.testing.assert_close(first.x, second.x, rtol=1e-4, atol=1e-4)
    return (first.tokens, first.trace, first.ending) == (second.tokens, second.trace, second.ending)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_writes_the_same_for_the_same_seed_and_changes_nothing(name: str) -> None:
    model, method = tiny_llama().train(), make(name)
    with untouched(model, method):
        first = generate(method, model, ASKED, LIMITS, sources(4))
    second = generate(method, model, ASKED, LIMITS, sources(4))
    assert [own.tokens for own in first] == [own.tokens for own in second]
    assert pickle.dumps([own.trace for own in first]) == pickle.dumps([own.trace for own in second])


@pytest.mark.parametrize("name", DECODERS)
def test_the_counts_of_a_decoder_agree_with_the_text(name: str) -> None:
    pieces: list[Piece] = []
    found = generate(make(name), tiny_llama(), ASKED, LIMITS, sources(4), on_piece=pieces.append)
    for row, own in enumerate(found):
        assert own.ending in ("stop", "length", "context", "finished")
        assert sum(own.trace.tokens) == len(own.tokens) <= LIMITS.max_new_tokens
        assert len(own.trace.tokens) == len(own.trace.events) == len(own.seconds)
        assert own.tokens == tuple(token for piece in pieces if piece.row == row for token in piece.tokens)
        assert not LIMITS.stop_tokens & set(own.tokens[:-1])


@pytest.mark.parametrize("name", DECODERS)
def test_a_text_does_not_depend_on_those_beside_it(name: str) -> None:
    together, by_one = texts(name), texts(name, batch_size=1)
    assert all(alike(own, other) for own, other in zip(together, by_one, strict=True))
    alone = generate(make(name), tiny_llama(), ASKED.keep([2]), LIMITS, [sources(4)[2]])
    assert alike(alone[0], together[2])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", DECODERS)
def test_scores_that_are_no_numbers_end_their_text_alone(name: str, value: float) -> None:
    found = texts(name, model=Breaking(tiny_llama(), 4, 4, value))
    plain = texts(name, model=Breaking(tiny_llama(), -1, 4, value))  # no text begins with such a token
    assert found[2].ending == "failed"
    assert "scores of the next token are not finite" in found[2].reason
    assert found[2].tokens == plain[2].tokens[: len(found[2].tokens)]
    assert len(found[2].tokens) < len(plain[2].tokens)
    assert found[2].tokens or plain[2].trace.tokens[0] != 1, "one token is written before a look ahead meets the break"
    assert all(alike(found[place], plain[place]) for place in (0, 1, 3))


FILLED = Limits(max_new_tokens=8)


def filled(
    name: str, condition: GenerationInputs = ASKED, batch_size: int = 8, model: nn.Module | None = None
) -> list[Generated]:
    own = model or tiny_llada(12)
    return generate(make(name), own, condition, FILLED, sources(len(condition)), batch_size=batch_size)


@cache
def whole(name: str) -> list[Generated]:
    """What an unmasker fills in where nothing is broken."""
    return filled(name)


@pytest.mark.parametrize("name", UNMASKERS)
def test_an_unmasker_fills_in_the_same_for_the_same_seed_and_changes_nothing(name: str) -> None:
    model, method = tiny_llada(12).train(), make(name)
    with untouched(model, method):
        first = generate(method, model, ASKED, FILLED, sources(4))
    second = generate(method, model, ASKED, FILLED, sources(4))
    assert [own.tokens for own in first] == [own.tokens for own in second]
    assert pickle.dumps([own.trace for own in first]) == pickle.dumps([own.trace for own in second])


@pytest.mark.parametrize("name", UNMASKERS)
def test_an_unmasker_writes_each_place_once_and_its_counts_agree(name: str) -> None:
    pieces: list[Piece] = []
    found = generate(make(name), tiny_llada(12), ASKED, FILLED, sources(4), on_piece=pieces.append)
    for row, own in enumerate(found):
        assert own.ending in ("length", "stop")
        assert sorted(place for step in own.trace.places for place in step) == list(range(8))
        assert own.trace.tokens == tuple(map(len, own.trace.places)) == own.trace.series()["unmasked"]
        assert len(own.trace.tokens) == len(own.trace.events) == len(own.seconds)
        shown = {
            at: token
            for piece in pieces
            if piece.row == row
            for at, token in zip(piece.places, piece.tokens, strict=True)
        }
        assert own.tokens == tuple(shown[place] for place in range(8))
        assert max(own.tokens) < 12, "no mask token is left"


@pytest.mark.parametrize("name", UNMASKERS)
def test_tokens_numbered_behind_the_mask_are_written_like_others_and_the_mask_is_not(name: str) -> None:
    own, method = tiny_llada(12), make(name)
    model = MaskAmongWords(own, 6)  # half of the words are numbered behind it
    renumbered = prompts(*[[model.number(word) for word in text] for text in ASKED.prompts])
    plain = generate(method, own, ASKED, FILLED, sources(4))
    found = generate(make(name), model, renumbered, FILLED, sources(4))
    if "grammar" not in vars(method.config):  # whose signs are numbers of tokens
        assert [text.tokens for text in found] == [tuple(map(model.number, text.tokens)) for text in plain]
    assert all(text.ending == "length" and 6 not in text.tokens for text in found)


@pytest.mark.parametrize("name", UNMASKERS)
def test_a_filled_text_does_not_depend_on_those_beside_it(name: str) -> None:
    together, by_one = filled(name), filled(name, batch_size=1)
    assert all(alike(own, other) for own, other in zip(together, by_one, strict=True))
    alone = generate(make(name), tiny_llada(12), ASKED.keep([2]), FILLED, [sources(4)[2]])
    assert alike(alone[0], together[2])


@pytest.mark.parametrize("name", UNMASKERS)
def test_what_stands_in_an_answer_stays(name: str) -> None:
    answer = torch.full((1, 8), 12)
    answer[0, [2, 5, 6]] = torch.tensor([3, 4, 5])
    (own,) = generate(make(name), tiny_llada(12), GenerationInputs(((1, 2),), {"answer": answer}), FILLED, sources(1))
    assert [own.tokens[place] for place in (2, 5, 6)] == [3, 4, 5]
    assert sorted(place for step in own.trace.places for place in step) == [0, 1, 3, 4, 7]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", UNMASKERS)
def test_scores_that_are_no_numbers_end_their_filled_text_alone(name: str, value: float) -> None:
    found, plain = filled(name, model=Broken(tiny_llada(12), 4, value)), whole(name)
    assert found[2].ending == "failed"
    assert "are not finite" in found[2].reason
    assert all(alike(found[place], plain[place]) for place in (0, 1, 3))


@pytest.mark.parametrize("name", UNMASKERS)
def test_a_model_without_a_mask_token_and_a_prompt_that_fills_the_window_are_named(name: str) -> None:
    with pytest.raises(FedsimError, match="has no mask token"):
        filled(name, model=tiny_llama())
    found = generate(make(name), tiny_llada(12, length=10), ASKED, FILLED, sources(4))
    assert [own.ending == "failed" for own in found] == [True, False, False, True]
    assert "the prompt has 3 tokens and its answer 8 places, and the model reads 10 in all" in found[0].reason
    assert found[0].trace.tokens == ()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_the_same_for_the_same_seed_and_changes_nothing(name: str) -> None:
    model, method = denoiser_for(name).train(), make(name)
    with untouched(model, method):
        (first,) = sample(method, model, GenerationInputs(((),)), SHAPE, sources(1))
    (second,) = sample(method, model, GenerationInputs(((),)), SHAPE, sources(1))
    assert first.x is not None
    assert second.x is not None
    assert torch.equal(first.x, second.x)
    assert first.x.shape == SHAPE
    assert first.x.isfinite().all()
    assert first.ending == "finished"
    assert pickle.dumps(first.trace) == pickle.dumps(second.trace)
    assert len(first.trace.events) == len(first.seconds) > 0
    assert sum(first.trace.tokens) == 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_those_beside_it(name: str) -> None:
    together = drawn(name)
    assert all(alike(drawn(name, (place,))[0], together[place]) for place in range(3))


@pytest.mark.parametrize("name", REDUCERS)
def test_a_token_reducer_reports_what_it_keeps_of_each_example(name: str) -> None:
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    model = make(name).prepare(nn.Sequential(nn.Flatten(), nn.Linear(30, 3)), torch.Generator().manual_seed(0))
    assert reducing_places(model)
    with untouched(model, make(name)), torch.no_grad(), kept_tokens(model) as seen:
        model(x)
        model(x[1:3])
    assert set(seen) == set(reducing_places(model))
    for first, second in seen.values():
        assert len(first) == 4
        assert all(0 <= kept <= 5 for kept in first)
        assert second == first[1:3]


@pytest.mark.parametrize("name", VISUAL)
def test_a_reducer_of_visual_tokens_promises(name: str) -> None:
    """Counts of each example, whatever stands beside it; the same writing with a cache; refusals in a sentence."""
    images, question, answer = examples(4)
    model = make(name).prepare(small_vlm(blocks=6), torch.Generator().manual_seed(0)).double().eval()
    with untouched(model, make(name)), torch.no_grad(), kept_tokens(model) as seen, visual_passes(model) as passes:
        whole = model(images, question, answer)
        model(images[1:3], question[1:3], answer[1:3])
        read = model.begin(model.encode(images, question), question)
        torch.testing.assert_close(read.scores, whole[:, 0])
        if type(model.reducers[0]).after_prompt is VisualReducer.after_prompt:  # others forget some of the prompt
            torch.testing.assert_close(model.follow(read, answer[:, 0]), whole[:, 1])
    (first, second, third) = seen["reducers.0"]
    assert list(first) == passes[0].visual[-1]
    assert all(0 < kept <= 16 for kept in first)
    assert (second, third) == (first[1:3], first)
    for patches in passes[0].patches:
        assert all(len({*patch} - {-1}) == sum(one >= 0 for one in patch) for patch in patches.tolist())
    with pytest.raises(NotApplicable, match="leaves visual tokens out"):
        make(name).prepare(nn.Linear(2, 2), torch.Generator())


@pytest.mark.parametrize("name", VISUAL)
def test_a_model_with_a_reducer_of_visual_tokens_trains_and_its_weights_travel(name: str) -> None:
    images, question, answer = examples(4)
    model = make(name).prepare(small_vlm(blocks=6), torch.Generator().manual_seed(0)).double().train()
    model(images, question, answer).logsumexp(-1).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    twin = make(name).prepare(small_vlm(seed=1, blocks=6), torch.Generator().manual_seed(1)).double()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images, question, answer), twin.eval()(images, question, answer))


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_tells_classes_apart_and_keeps_nothing(name: str) -> None:
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    inputs = 6.0 * nn.functional.one_hot(labels, 4).float() + torch.randn(60, 4, generator=source)
    few = {"steps": 50} if name == "devil" else {}  # of training, for classes that lie far apart
    model, method = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).train(), make(name, **few)
    nn.init.orthogonal_(model.get_parameter("0.weight"), generator=source)
    known = (inputs[:30], labels[:30])
    with untouched(model, method):
        found = probe(method, model, "0", known, inputs[30:], torch.Generator().manual_seed(1))
    again = probe(method, model, "0", known, inputs[30:], torch.Generator().manual_seed(1))
    assert torch.equal(found, again)
    assert found.shape == (30, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(30))
    assert (found.argmax(1) == labels[30:]).all()  # classes lie six standard deviations apart
    one = probe(method, model, "0", known, inputs[30:31], torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, found[:1])


@pytest.mark.parametrize("name", [name for name in PROBES if name not in ("markov-categorical", "toy-nearest-mean")])
def test_states_that_a_probe_cannot_learn_from_are_refused(name: str) -> None:
    for states, labels, message in (
        (torch.zeros(4, 2, 2), torch.arange(4), r"shape \(\d, 2, 2\)"),
        (torch.full((4, 2), torch.nan), torch.arange(4), "not finite"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), "a single class|one class"),
    ):
        with pytest.raises(NotApplicable, match=message):
            make(name).fit(states, labels, torch.Generator())
