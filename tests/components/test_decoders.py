"""Greedy and sampled text against the transformers package, and draws against the softmax they stem from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec, Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, make, prompts, sources, tiny_llama

ASKED = prompts([1, 2, 3, 4], [5, 6], [7], [8, 9, 10, 11, 12, 13])
LONG = Limits(max_new_tokens=20)
SCORES = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
MISTAKE = (
    1e-4  # chance that a chi-square test fails although draws are right; seeds are fixed, so it fails never or ever
)


class Fixed(nn.Module):
    """The same scores behind every token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return SCORES.expand(*tokens.shape, -1)


def reference() -> tuple[nn.Module, Any]:
    """A tiny Llama, and that of the package with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attn_implementation="eager",
        eos_token_id=None,
        pad_token_id=0,
    )
    ours = tiny_llama()
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    renamed = {
        (name if name.startswith("lm_head") else f"model.{name}"): own for name, own in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    return ours, theirs


def test_greedy_text_is_that_of_the_package_token_by_token() -> None:
    ours, theirs = reference()
    found = generate(make("greedy"), ours, ASKED, LONG, sources(4))
    for prompt, own in zip(ASKED.prompts, found, strict=True):
        tokens = torch.tensor([prompt])
        asked: dict[str, Any] = {"do_sample": False, "max_new_tokens": 20, "min_new_tokens": 20}
        written = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **asked)
        assert own.tokens == tuple(written[0, len(prompt) :].tolist())
        assert own.ending == "length"
    assert len({own.tokens for own in found}) == 4
    assert all(len(set(own.tokens)) > 2 for own in found), "a text of one token would prove little"


def test_greedy_takes_the_first_of_equals() -> None:
    class Equal(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 1.0]).expand(*tokens.shape, -1)

    (found,) = generate(make("greedy"), Equal(), prompts([2]), Limits(max_new_tokens=2), sources(1))
    assert found.tokens == (1, 1)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8), (2.0, 0.9), (0.7, 0.3)])
def test_draws_follow_the_softmax(temperature: float, top_p: float) -> None:
    transformers = pytest.importorskip("transformers")
    kept = transformers.TopPLogitsWarper(top_p)(None, SCORES[None] / temperature)[0]
    odds, draws = kept.double().softmax(-1), 3000
    method = make("sampled", temperature=temperature, top_p=top_p)
    found = generate(method, Fixed(), prompts(*[[0]] * 30), Limits(max_new_tokens=draws // 30), sources(30))
    counts = torch.bincount(torch.tensor([token for own in found for token in own.tokens]), minlength=len(SCORES))
    assert not counts[odds == 0].any()
    expected = draws * odds[odds > 0]
    statistic = float(((counts[odds > 0] - expected).square() / expected).sum())
    freedom = max(1, len(expected) - 1)
    assert statistic <= chi2.isf(MISTAKE, freedom)


def test_sampling_at_a_low_temperature_is_greedy() -> None:
    ours, asked = tiny_llama(), ASKED
    cold = generate(make("sampled", temperature=1e-6), ours, asked, LONG, sources(4))
    assert [own.tokens for own in cold] == [
        own.tokens for own in generate(make("greedy"), ours, asked, LONG, sources(4))
    ]


def test_another_seed_draws_another_text_and_the_likeliest_token_alone_is_a_share_of_almost_nothing() -> None:
    ours = tiny_llama()
    first, second = (generate(make("sampled"), ours, ASKED, LONG, sources(4, seed)) for seed in (0, 1))
    assert all(own.tokens != other.tokens for own, other in zip(first, second, strict=True))
    narrow = generate(make("sampled", top_p=1e-9), ours, ASKED, LONG, sources(4))
    assert [own.tokens for own in narrow] == [
        own.tokens for own in generate(make("greedy"), ours, ASKED, LONG, sources(4))
    ]


def test_a_temperature_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature\s+Input should be greater than 0"):
        make("sampled", temperature=0)


def test_a_tagger_writes_no_text() -> None:
    class Tagger(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(len(tokens), 3)

    with pytest.raises(FedsimError, match=r"returns scores of shape \(1, 3\) .* Use a causal language model"):
        generate(make("greedy"), Tagger(), prompts([1, 2]), LONG, sources(1))


def test_a_real_model_writes_on(smollm2: Path) -> None:
    method = registry.get("model", "smollm2-135m")
    model = method.make(method.config(), InputSpec((16,), 49_152, (), (), vocabulary=49_152))
    asked, limits = prompts(range(100, 108), range(200, 204)), Limits(max_new_tokens=3, context=8192)
    found = generate(make("greedy"), model, asked, limits, sources(2))
    for prompt, own in zip(asked.prompts, found, strict=True):
        assert list(own.tokens) == model.continued(torch.tensor([prompt]), 3)[0].tolist()
