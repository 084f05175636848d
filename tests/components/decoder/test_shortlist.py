"""Drafts among few tokens: the same scores on the list, nothing off it, and the model's own text all the same."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.decoder._odds import DrawConfig
from fedsim.components.decoder._shortlist import score_drafts
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.nets.kv_cache.stack import LayerStack
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, greedy, make, prompts, sources, tiny_llama
from tests.components.laws import follows, law

ASKED = [[1, 2, 3, 4], [5, 6], [22], [8, 9, 10, 11, 12, 13]]
ROUNDING = 1e-12  # double precision: one product of other shape


def stack() -> LayerStack:
    found = stack_of(tiny_llama().eval())
    assert found is not None
    return found


def states(own: LayerStack) -> Tensor:
    return own.embed(torch.tensor([[3, 4, 5]]))[0]


@pytest.mark.parametrize("text", [(1, 2), (1, 21, 20, 21)])
def test_scores_on_the_list_are_those_of_all_tokens_and_nothing_is_off_it(text: tuple[int, ...]) -> None:
    own, first = stack(), 7
    whole, short = own.score(states(own)), score_drafts(own, states(own), text, first)
    listed = sorted({*range(first), *text})
    others = [token for token in range(VOCABULARY) if token not in listed]
    torch.testing.assert_close(short[:, listed], whole[:, listed], rtol=0, atol=ROUNDING)
    assert bool((short[:, others] == -torch.inf).all())


def test_no_list_or_one_of_all_tokens_is_the_whole_output_layer() -> None:
    own = stack()
    for first in (0, VOCABULARY, 10 * VOCABULARY):
        assert torch.equal(score_drafts(own, states(own), (1,), first), own.score(states(own)))


def test_where_more_than_a_product_is_done_all_tokens_are_scored() -> None:
    model = tiny_llama().eval()
    own = stack_of(model)
    assert own is not None
    model.get_submodule("lm_head").register_forward_hook(lambda _m, _a, scores: 2 * scores)
    assert torch.equal(score_drafts(own, states(own), (1,), 5), own.score(states(own)))
    biased = tiny_llama().eval()
    biased.lm_head = nn.Linear(biased.get_submodule("embed_tokens").weight.shape[1], VOCABULARY).double()  # type: ignore[union-attr,operator,arg-type]
    own = stack_of(biased)
    assert own is not None
    assert torch.equal(score_drafts(own, states(own), (1,), 5), own.score(states(own)))


@pytest.mark.parametrize("shortlist", [1, 5])
@pytest.mark.parametrize(("name", "settings"), [("speculative", {"layers": 2}), ("dynamic-exit", {"exits": (1, 2)})])
def test_the_text_is_greedys_whatever_is_on_the_list(name: str, settings: dict[str, object], shortlist: int) -> None:
    model = tiny_llama(blocks=3)
    method = make(name, shortlist=shortlist, **settings)
    texts = generate(method, model, prompts(*ASKED), Limits(max_new_tokens=12), sources(4))
    assert [list(text.tokens) for text in texts] == greedy(model, ASKED, 12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("speculative", {"layers": 1}), pytest.param("dynamic-exit", {"longest": 3}, marks=pytest.mark.slow)],
)
def test_texts_follow_the_law_of_the_model_whatever_is_on_the_list(name: str, settings: dict[str, object]) -> None:
    model, prompt, draws = tiny_llama(4, blocks=2).eval(), [1, 2], 300
    method = make(name, temperature=1.0, shortlist=1, **settings)
    texts = generate(
        method, model, prompts(*[prompt] * draws), Limits(max_new_tokens=2), sources(draws), batch_size=draws
    )
    assert follows([text.tokens for text in texts], law(model, prompt, 4, 2, DrawConfig(temperature=1.0)))


def test_only_listed_tokens_are_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, seen = DrawConfig.draw, set[int]()

    def noting(self: DrawConfig, scores: Tensor, generator: torch.Generator) -> tuple[int, Tensor | None]:
        token, odds = drawn(self, scores, generator)
        seen.add(token)
        return token, odds

    monkeypatch.setattr(DrawConfig, "draw", noting)
    method = make("speculative", layers=1, shortlist=3, temperature=2.0)
    texts = generate(method, tiny_llama(), prompts([20, 21]), Limits(max_new_tokens=30), sources(1))
    assert seen <= {0, 1, 2, 20, 21, *texts[0].tokens}
    assert {0, 1, 2} & seen
