"""Speculative text is the model's own, token by token or in law, whoever drafts."""

from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from torch import nn

from fedsim.components.decoder._odds import DrawConfig
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Config, Generated, InputSpec, Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, greedy, make, prompts, sources, tiny_llama
from tests.components.laws import follows, law

SMALL = 4
ASKED = [[1, 2, 3, 4], [5, 6], [7], [8, 9, 10, 11, 12, 13]]


@pytest.fixture(autouse=True)
def _drafts() -> Iterator[None]:
    """Have models in the registry that can draft."""
    with registry.temporary():
        for name, vocabulary, seed in (("other", VOCABULARY, 1), ("same", VOCABULARY, 0), ("small", SMALL, 1)):
            _register(name, vocabulary, seed)
        yield


def _register(name: str, vocabulary: int, seed: int) -> None:
    @registry.model(name, summary="a toy")
    def build(config: Config, spec: InputSpec) -> nn.Module:
        return tiny_llama(vocabulary, seed)


def written(own: Generated) -> list[int]:
    return list(own.tokens)


@pytest.mark.parametrize(
    "settings", [{}, {"layers": 2}, {"draft": "other", "length": 1}, {"draft": "same", "length": 7}]
)
def test_at_temperature_zero_it_is_greedy(settings: dict[str, object]) -> None:
    model = tiny_llama()
    texts = generate(make("speculative", **settings), model, prompts(*ASKED), Limits(max_new_tokens=20), sources(4))
    assert [written(text) for text in texts] == greedy(model, ASKED, 20)


@pytest.mark.paper_step("speculative", "drafts of a cheaper model")
def test_a_draft_of_the_model_itself_stands_and_saves_passes() -> None:
    for settings in ({"layers": 2}, {"draft": "same"}):
        (found,) = generate(
            make("speculative", **settings), tiny_llama(), prompts([1]), Limits(max_new_tokens=10), sources(1)
        )
        assert found.trace.tokens == (5, 5)
        assert found.trace.series() == {"accepted": (4, 4), "layers": (10, 10), "proposed": (4, 4)}


@pytest.mark.paper_step("speculative", "acceptance, and a draw of the residual at the first rejection")
@pytest.mark.parametrize(
    "settings",
    [
        {"draft": "small", "temperature": 1.0, "length": 2},
        {"layers": 1, "temperature": 0.7, "length": 3},
        pytest.param({"draft": "small", "temperature": 1.5, "top_p": 0.8}, marks=pytest.mark.slow),
    ],
)
def test_texts_follow_the_law_of_the_model(settings: dict[str, object]) -> None:
    model, prompt, draws = tiny_llama(SMALL).eval(), [1, 2], 1000
    method = make("speculative", **settings)
    texts = generate(
        method, model, prompts(*[prompt] * draws), Limits(max_new_tokens=3), sources(draws), batch_size=draws
    )
    expected = law(model, prompt, SMALL, 3, method.config)
    drawn = [text.tokens for text in texts]
    assert follows(drawn, expected)
    drafter = law(tiny_llama(SMALL, 1).eval(), prompt, SMALL, 3, DrawConfig(temperature=1.0))
    assert not follows(drawn, drafter), "the draft's own law is another, and the test must tell"
    assert len({text.trace.tokens for text in texts}) > 1


def test_a_model_of_unknown_layers_counts_one_a_pass_of_draft_or_model() -> None:
    model, ran = nn.Sequential(tiny_llama()), list[str]()
    model.register_forward_hook(lambda *_: ran.append("a pass"))
    method = make("speculative", draft="other", length=2)
    (found,) = generate(method, model, prompts([1, 2]), Limits(max_new_tokens=6), sources(1))
    series = found.trace.series()
    assert sum(series["layers"]) == sum(series["proposed"]) + len(ran) - 1, "one pass told how many tokens it knows"


def test_a_draft_ends_where_it_is_not_sure() -> None:
    model = tiny_llama()
    for sure, longest in ((0.0, 4), (0.9999, 0)):
        method = make("speculative", layers=1, sure=sure)
        (found,) = generate(method, model, prompts([1, 2]), Limits(max_new_tokens=12), sources(1))
        assert written(found) == greedy(model, [[1, 2]], 12)[0]
        left = [12 - done for done in accumulate(found.trace.tokens, initial=0)][:-1]
        assert found.trace.series()["proposed"] == tuple(min(longest, tokens - 1) for tokens in left)


def test_mistakes_are_told_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"top_p is 0\.9, but at temperature 0 nothing is drawn"):
        make("speculative", top_p=0.9)
    with pytest.raises(ValueError, match="each names the draft model: set only one"):
        make("speculative", draft="same", layers=1)
    for draft, message in (
        ("small", r'draft = "small" has 4 tokens, the model 23: they have different tokenizers'),
        ("smal", "small"),
    ):
        with pytest.raises(FedsimError, match=message):
            generate(make("speculative", draft=draft), tiny_llama(), prompts([1]), Limits(max_new_tokens=2), sources(1))
    with pytest.raises(FedsimError, match="cannot find the layers of this model"):
        generate(make("speculative"), nn.Sequential(tiny_llama()), prompts([1]), Limits(max_new_tokens=2), sources(1))


def test_a_draft_whose_scores_are_no_numbers_drafts_nothing() -> None:
    broken = tiny_llama()
    with torch.no_grad():
        broken.get_parameter("norm.weight").fill_(torch.nan)
    registry.model("nan", summary="a toy")(_returning(broken))
    (found,) = generate(
        make("speculative", draft="nan"), tiny_llama(), prompts([1]), Limits(max_new_tokens=3), sources(1)
    )
    assert found.trace.series() == {"accepted": (0, 0, 0), "layers": (4, 4, 2), "proposed": (0, 0, 0)}


def _returning(model: nn.Module):
    def build(config: Config, spec: InputSpec) -> nn.Module:
        return model

    return build


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"layers": 1}, {"layers": 2, "sure": 0.4}, {"draft": "other", "length": 2}])
def test_layers_are_counted_as_they_run_in_the_draft_and_in_the_model(settings: dict[str, object]) -> None:
    method, model, ran = make("speculative", **settings), tiny_llama(blocks=3).eval(), list[str]()
    context = GenerationContext(tuple(sources(1)), Limits(max_new_tokens=20))
    state = method.start(model, prompts([1, 2]), context)
    for whose in {id(own): own for own in (model, state.drafter.model)}.values():
        for block in whose.get_submodule("layers").children():
            block.register_forward_hook(lambda *_: ran.append("a layer"))
    counted = []
    for _ in range(6):
        ran.clear()
        state, (event,) = method.step(model, state, context)
        counted.append(event["layers"])
        assert event["layers"] == len(ran)
    assert min(counted) > 3, "the draft's layers run too"
