"""Cautious next token prediction: counts of trials, the closed form of the choice, perplexities, the model's work."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from fedsim.components.decoder.cntp import CntpConfig, clause_ends, trials_at
from fedsim.core import registry
from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import make, prompts, sources, tiny_llama

ASKED = prompts([1, 2, 3], [4], [5, 6], [7, 8, 9, 10])
LONG = Limits(max_new_tokens=12)
END, STOP = 4, 11
BRANCHING = {"ends": (END, 5), "temperature": 1.3, "top_p": 1.0, "max_trials": 4, "low": 0.5, "high": 2.5}
MISTAKE = 1e-4  # chance that a chi-square test fails although draws are right; the seed is fixed


class Table(nn.Module):
    """Scores of the next token by the last one and its place, of five tokens; no two trials are equally likely."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(3)).double()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[torch.arange(tokens.shape[1]) % 3, tokens]


def steps(count: int, limits: Limits = LONG, **settings: Any) -> list[Any]:
    """The states behind each of `count` steps, asked directly."""
    method, model = make("cntp", **{**BRANCHING, **settings}), tiny_llama().eval()
    context = GenerationContext(tuple(sources(4)), limits)
    states = [method.start(model, ASKED, context)]
    with torch.no_grad():
        for _ in range(count):
            states.append(method.step(model, states[-1], context)[0])
    return states


@torch.no_grad()
def behind(text: Any) -> Tensor:
    """The scores behind every token of a text, in one pass."""
    return tiny_llama().eval()(torch.tensor([list(text)]))[0]


def test_without_branching_it_is_sampling_with_the_same_random_numbers() -> None:
    drawn = {"temperature": 0.9, "top_p": 0.8}
    texts = generate(make("cntp", low=1e9, high=2e9, **drawn), tiny_llama(), ASKED, LONG, sources(4))
    assert [one.tokens for one in texts] == [
        one.tokens for one in generate(make("sampled", **drawn), tiny_llama(), ASKED, LONG, sources(4))
    ]
    assert all(set(one.trace.series()["trials"]) == set(one.trace.series()["rows"]) == {1} for one in texts)


def test_at_temperature_0_it_is_greedy() -> None:
    texts = generate(make("cntp", temperature=0), tiny_llama(), ASKED, LONG, sources(4))
    assert [one.tokens for one in texts] == [
        one.tokens for one in generate(make("greedy"), tiny_llama(), ASKED, LONG, sources(4))
    ]


@pytest.mark.paper_step("cntp", "number of trials from the entropy")
@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_number_of_trials_grows_with_entropy_from_one_to_the_most(form: str) -> None:
    config = CntpConfig.model_validate({"form": form, "max_trials": 10, "low": 0.2, "high": 1.5})
    counts = [trials_at(0.01 * step, config) for step in range(200)]
    assert counts[:21] == [1] * 21
    assert counts[150:] == [10] * 50
    assert counts == sorted(counts)
    assert set(counts) == set(range(1, 11))
    # By hand at half of the way: int(1 + 9 / 2), and floor(10 / 2).
    assert trials_at(0.86, config) == 5


@pytest.mark.paper_step("cntp", "the trial of the smallest perplexity stays")
@pytest.mark.slow
def test_the_chosen_trial_is_the_least_of_its_draws_by_the_closed_form() -> None:
    """P(s) = G(s)^N - (G(s) - F(s))^N, G(s) the probability of all trials whose perplexity is at least that of s."""
    odds, begin, trials = Table().table.softmax(-1), 0, 4
    law: dict[tuple[int, ...], tuple[float, float]] = {}
    for length in (1, 2, 3):
        for own in itertools.product(range(5), repeat=length):
            if END in own[:-1] or (own[-1] != END and length < 3):
                continue
            steps = enumerate(itertools.pairwise((begin, *own)))
            probability = math.prod(float(odds[place, before, after]) for place, (before, after) in steps)
            law[own] = (probability, -math.log(probability) / length)
    assert sum(own for own, _ in law.values()) == pytest.approx(1)
    expected = {}
    for own, (probability, cost) in law.items():
        above = sum(other for other, least in law.values() if least >= cost)
        expected[own] = above**trials - (above - probability) ** trials
    assert sum(expected.values()) == pytest.approx(1)
    method = make("cntp", by="nothing", max_trials=trials, temperature=1.0, top_p=1.0, ends=(END,), longest=3)
    context = GenerationContext((torch.Generator().manual_seed(0),) * 2000, Limits(max_new_tokens=3))
    state, found = method.start(Table(), prompts(*[[begin]] * 2000), context), dict.fromkeys(law, 0)
    for _ in range(10):  # always from the same state
        for text in method.step(Table(), state, context)[0].tokens:
            found[text[1:]] += 1
    common = [own for own in law if 20_000 * expected[own] >= 5]
    counts = torch.tensor([*(found[own] for own in common), 20_000 - sum(found[own] for own in common)]).double()
    means = 20_000 * torch.tensor([*(expected[own] for own in common), 1 - sum(expected[own] for own in common)])
    statistic = float(((counts - means).square() / means).sum())
    assert len(common) > 20
    assert statistic <= chi2.isf(MISTAKE, len(common))
    plain = 20_000 * torch.tensor([law[own][0] for own in common])
    assert float(((counts[:-1] - plain).square() / plain).sum()) > 1000, "one trial alone would be another law"


def test_a_perplexity_is_that_of_one_pass_over_the_trial_and_the_least_stays() -> None:
    before, after = steps(2)[1:]
    seen = 0
    for text, own, whole in zip(before.tokens, after.last, after.tokens, strict=True):
        assert whole == (*text, *own.trials[own.chosen_trial])
        assert own.perplexities[own.chosen_trial] == min(own.perplexities)
        for trial, perplexity in zip(own.trials, own.perplexities, strict=True):
            scores = behind([*text, *trial])[len(text) - 1 : -1] / 1.3
            costs = nn.functional.cross_entropy(scores, torch.tensor(trial))
            assert float(costs.exp()) == pytest.approx(perplexity, rel=1e-4)
            seen += len(trial)
    assert seen > 20


def test_the_entropy_and_the_count_are_those_of_the_distribution() -> None:
    states = steps(3)
    counts = set()
    for before, after in itertools.pairwise(states):
        for text, own in zip(before.tokens, after.last, strict=True):
            odds = (behind(text)[-1] / 1.3).softmax(-1)
            entropy = float(-(odds * odds.log()).sum())
            assert own.entropy == pytest.approx(entropy, rel=1e-9)
            assert len(own.trials) == int(1 + 3 * min(1, max(0, (entropy - 0.5) / 2)))
            counts.add(len(own.trials))
    assert counts >= {2, 3}
    raw = steps(1, entropy_of="raw")[1]
    own = behind(ASKED.prompts[0])[-1].softmax(-1)
    assert raw.last[0].entropy == pytest.approx(float(-(own * own.log()).sum()), rel=1e-9)


def test_the_controls_always_branch_or_branch_where_it_is_sure() -> None:
    assert all(len(own.trials) == 4 for own in steps(1, by="nothing")[1].last)
    normal, opposite = steps(1)[1], steps(1, by="certainty")[1]
    assert [len(own.trials) + len(other.trials) for own, other in zip(normal.last, opposite.last, strict=True)] == [
        5
    ] * 4


@pytest.mark.paper_step("cntp", "a trial ends at a sign")
@pytest.mark.parametrize("longest", [3, 64])
def test_a_trial_ends_at_a_sign_a_stop_token_or_its_longest(longest: int) -> None:
    limits = Limits(max_new_tokens=12, stop_tokens=frozenset({STOP}), context=14)
    states, endings = steps(3, limits, longest=longest, by="nothing"), set()
    for before, after in itertools.pairwise(states):
        for row, (text, own) in enumerate(zip(before.tokens, after.last, strict=True)):
            room = min(longest, 12 - (len(text) - len(ASKED.prompts[row])), 14 - len(text))
            for trial in own.trials:
                assert not {END, 5, STOP} & set(trial[:-1])
                ending = "token" if trial[-1] in {END, 5, STOP} else "room"
                assert ending == "token" or len(trial) == max(1, room)
                endings.add(ending)
    assert "token" in endings
    assert longest == 64 or "room" in endings


def test_rejected_trials_leave_nothing_behind() -> None:
    """A text goes on behind a branching as one that begins with it would."""
    method, model = make("cntp", **BRANCHING, longest=3), tiny_llama()
    (whole,) = generate(method, model, ASKED.keep([0]), LONG, sources(1))
    assert max(whole.trace.series()["trials"]) > 1
    (source,) = sources(1)
    first = generate(method, model, ASKED.keep([0]), Limits(max_new_tokens=3), [source])[0]
    assert len(first.trace.tokens) == 1, "one trial of three tokens"
    begun = prompts([*ASKED.prompts[0], *first.tokens])
    (rest,) = generate(method, model, begun, Limits(max_new_tokens=9), [source])
    assert first.tokens + rest.tokens == whole.tokens


def test_a_trial_ends_where_the_tokenizer_says_that_a_clause_does() -> None:
    method = registry.get("dataset", "lee-news")
    tokenizer = method.make(method.config.model_validate({"length": 16})).tokenizer
    more = clause_ends(tokenizer, "endings")
    wide = tiny_llama(vocabulary=tokenizer.vocabulary)
    settings: dict[str, Any] = {"by": "nothing", "max_trials": 2, "ends": "endings", "temperature": 1.0, "longest": 5}
    limits = Limits(max_new_tokens=5)
    context = GenerationContext(tuple(sources(4)), limits, tokenizer=tokenizer)
    start = make("cntp", **settings).start(wide, ASKED, context)
    with torch.no_grad():
        state = make("cntp", **settings).step(wide.eval(), start, context)[0]
    assert all(trial[-1] in more or len(trial) == 5 for one in state.last for trial in one.trials)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"temperature": 0, "top_p": 0.9}, "at temperature 0 nothing is drawn, so that 'top_p' has no meaning"),
        ({"temperature": 0, "max_trials": 3}, "at temperature 0 nothing is drawn, so that 'max_trials' has no meaning"),
        ({"low": 2.0}, "low is 2.0 and high 1.5: expected low below high"),
        ({"min_trials": 11}, "min_trials is 11 and max_trials 10: expected at most as many"),
        ({"temperature": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make("cntp", **settings)


class Pieces:
    """Tokens that are whole pieces of text."""

    texts = ("a", ".", "3.", " ;", "b", "", "x!y", "\n", "?")
    vocabulary, padding, begin, end = len(texts), 0, None, 0
    ends = frozenset({end})

    def encode(self, text: str) -> list[int]:
        return [self.texts.index(text)] if text in self.texts else []

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.texts[token] for token in tokens)


def test_signs_alone_end_a_clause_or_every_token_whose_text_ends_in_one() -> None:
    own = Pieces()
    assert {own.texts[token] for token in clause_ends(own, "signs")} == {".", "\n", "?"}
    assert {own.texts[token] for token in clause_ends(own, "endings")} == {".", "\n", "?", "3.", " ;"}
