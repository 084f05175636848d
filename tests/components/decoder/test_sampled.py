"""Draws against the softmax that they stem from."""

from itertools import combinations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.decoder.asking import ASKED, LONG
from tests.components.generating import make, prompts, sources, tiny_llama

SCORES = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
MISTAKE = (
    1e-4  # chance that a chi-square test fails although draws are right; seeds are fixed, so it fails never or ever
)


class Fixed(nn.Module):
    """The same scores behind every token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return SCORES.expand(*tokens.shape, -1)


def nucleus(scores: Tensor, top_p: float) -> Tensor:
    """The odds of the fewest tokens that have `top_p` together, by trying all sets; of these, the likeliest."""
    odds = scores.softmax(-1)
    sets = [kept for size in range(1, len(odds) + 1) for kept in combinations(range(len(odds)), size)]
    enough = [kept for kept in sets if float(odds[list(kept)].sum()) >= top_p - 1e-12]  # rounding of a sum of all
    fewest = [kept for kept in enough if len(kept) == len(enough[0])]
    best = list(max(fewest, key=lambda kept: float(odds[list(kept)].sum())))
    return torch.zeros_like(odds).index_copy(0, torch.tensor(best), odds[best] / odds[best].sum())


@pytest.mark.paper_step("sampled", "nucleus of the most likely tokens")
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8), (2.0, 0.9), (0.7, 0.3)])
def test_draws_follow_the_softmax(temperature: float, top_p: float) -> None:
    odds, draws = nucleus(SCORES.double() / temperature, top_p), 3000
    method = make("sampled", temperature=temperature, top_p=top_p)
    texts = generate(method, Fixed(), prompts(*[[0]] * 30), Limits(max_new_tokens=draws // 30), sources(30))
    counts = torch.bincount(torch.tensor([token for text in texts for token in text.tokens]), minlength=len(SCORES))
    assert not counts[odds == 0].any()
    expected = draws * odds[odds > 0]
    statistic = float(((counts[odds > 0] - expected).square() / expected).sum())
    freedom = max(1, len(expected) - 1)
    assert statistic <= chi2.isf(MISTAKE, freedom)


def test_another_seed_draws_another_text_and_the_likeliest_token_alone_is_a_share_of_almost_nothing() -> None:
    ours = tiny_llama()
    first, second = (generate(make("sampled"), ours, ASKED, LONG, sources(4, seed)) for seed in (0, 1))
    assert all(own.tokens != other.tokens for own, other in zip(first, second, strict=True))
    narrow = generate(make("sampled", top_p=1e-9), ours, ASKED, LONG, sources(4))
    assert [own.tokens for own in narrow] == [
        own.tokens for own in generate(make("greedy"), ours, ASKED, LONG, sources(4))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.8, 0.3])
def test_a_second_library_keeps_the_same_tokens(top_p: float) -> None:
    transformers = pytest.importorskip("transformers")
    kept = transformers.TopPLogitsWarper(top_p)(None, SCORES[None])[0]
    torch.testing.assert_close(nucleus(SCORES.double(), top_p), kept.double().softmax(-1))
