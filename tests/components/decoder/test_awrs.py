"""Weighted rejection sampling with particles: exact by enumeration of all texts of a tiny model, and its endings."""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch

from fedsim.components.decoder._critics import Critic
from fedsim.components.decoder._particles import Particle, Population
from fedsim.components.decoder.awrs import Awrs, AwrsConfig, Weighing
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.decoder.lettered import END, LONGEST, Letters, Table, probability, texts
from tests.components.generating import make, prompts, sources

PATTERN = "(ab|ba|c)[12]?|a[12]b"

BEGIN = 2

LIMITS = Limits(max_new_tokens=LONGEST, stop_tokens=frozenset({END}))

LAW = {text: probability(text, BEGIN) for text in texts()}

POSTERIOR = {own: chance for own, chance in LAW.items() if re.fullmatch(PATTERN, Letters().decode(own)) is not None}

EVIDENCE = sum(POSTERIOR.values())

SIX_LETTERS: dict[str, Any] = {"tokenizer": Letters()}


def populations(
    runs: int, seed: int, limits: Limits = LIMITS, critic: Critic | None = None, **settings: Any
) -> list[Population]:
    """What the particles of each run come to, asked step by step."""
    method = Awrs(AwrsConfig.model_validate({"regex": PATTERN, "particles": 5, **settings}), critic=critic)
    every = GenerationContext((torch.Generator().manual_seed(seed),) * runs, limits, tokenizer=Letters())
    state, found = method.start(Table(), prompts(*[[BEGIN]] * runs), every), list[Population]()
    while len(state):
        context = GenerationContext(every.generators[: len(state)], limits, tokenizer=Letters())
        state, _ = method.step(Table(), state, context)
        over = [population.is_over or population.is_full for population in state.populations]
        found += [
            population.drop_unfinished() for population, is_over in zip(state.populations, over, strict=True) if is_over
        ]
        state = state.keep([place for place, is_over in enumerate(over) if not is_over])
    return found


def weighted(found: Sequence[Population]) -> dict[tuple[int, ...], torch.Tensor]:
    """Of each text, the share of the evidence that every run gives it: exp(factor) times its weights over N."""
    shares = {own: torch.zeros(len(found), dtype=torch.double) for own in POSTERIOR}
    for run, own in enumerate(found):
        for one in own.particles:
            if one.is_living:
                shares[one.tokens][run] += math.exp(own.log_factor + one.log_weight) / len(own.particles)
    return shares


def evidences(found: Sequence[Population]) -> torch.Tensor:
    return torch.tensor([math.exp(own.log_evidence) for own in found], dtype=torch.double)


def check_exact(found: Sequence[Population], common: float, law: Mapping[tuple[int, ...], float] = POSTERIOR) -> None:
    """Evidence, and the weights of texts that are at least so large a part of it, within four standard errors."""
    total = sum(law.values())
    for values, expected in [
        (evidences(found), total),
        *((own, law[text]) for text, own in weighted(found).items() if law[text] >= common * total),
    ]:
        assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / math.sqrt(len(found)) + 1e-12


def distance(found: Sequence[Population]) -> float:
    """Total variation between the normalised mean weights and the exact posterior."""
    means = {text: float(own.mean()) for text, own in weighted(found).items()}
    total = sum(means.values())
    return 0.5 * sum(abs(own / total - POSTERIOR[text] / EVIDENCE) for text, own in means.items())


@pytest.mark.paper_step("awrs", "weight of a token by adaptive rejection")
@pytest.mark.paper_step("awrs", "a proposal other than the model")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"share": 1.0}, marks=pytest.mark.slow),
        pytest.param({"share": 0.0}, marks=pytest.mark.slow),
        pytest.param({"estimator": "geometric", "accepts": 4}, marks=pytest.mark.slow),
        pytest.param({"estimator": "two-loops"}, marks=pytest.mark.slow),
        pytest.param({"max_rejects": 2}, marks=pytest.mark.slow),
        pytest.param({"flatness": 2.0}, marks=pytest.mark.slow),
        pytest.param({"flatness": 0.7, "estimator": "geometric", "accepts": 4}, marks=pytest.mark.slow),
        pytest.param({"particles": 1}, marks=pytest.mark.slow),
        pytest.param({"particles": 2, "share": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_evidence_and_weights_are_unbiased(settings: dict[str, Any]) -> None:
    check_exact(populations(250, 0, **settings), 0.05)


@pytest.mark.paper_step("awrs", "resampling of particles below a share of the effective sample size")
@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"share": 1.0}, {"share": 0.0}, {"estimator": "two-loops"}])
def test_the_law_of_the_particles_is_the_model_given_the_constraint(settings: dict[str, Any]) -> None:
    found = populations(10_000, 1, **settings)
    check_exact(found, 0.005)
    assert distance(found) < 0.02


def test_what_is_proposed_weighs_its_odds_over_those_of_the_proposal() -> None:
    """Without a constraint a draw has weight 1 but for them, and the draws have the proposal's law."""
    method, source = Awrs(AwrsConfig(flatness=3.0)), torch.Generator().manual_seed(2)
    odds = Table().table[0, BEGIN].double().log_softmax(-1)
    proposal = (odds / 3).softmax(-1)
    drawn = [method._propose(odds, lambda _token: True, source) for _ in range(600)]
    for choice in drawn:
        assert choice.token is not None
        ratio = float(odds[choice.token] - proposal[choice.token].log())
        assert choice.log_weight == pytest.approx(ratio, abs=1e-9)
    counts = torch.bincount(torch.tensor([choice.token for choice in drawn]), minlength=6)
    statistic = float(((counts - 600 * proposal).square() / (600 * proposal)).sum())
    assert statistic < 25.7  # chi-square with 5 degrees of freedom, exceeded once in 10,000


def ones(text: Sequence[int]) -> float:
    """A worth of whole texts: threefold for each 1."""
    return 3.0 ** text.count(3)


class Expecting:
    """What a whole text is worth, and of a beginning the expected worth of its ends, by enumeration."""

    def __init__(self, law: Mapping[tuple[int, ...], float], worth: Callable[[Sequence[int]], float]) -> None:
        self.law, self.worth = law, worth

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        if is_whole:
            return math.log(self.worth(tokens))
        behind = sum(chance * self.worth(text) for text, chance in self.law.items() if text[: len(tokens)] == tokens)
        return math.log(behind / probability(tokens, BEGIN)) if behind else -math.inf


class Misled:
    """Promises of beginnings that have nothing to do with what whole texts are worth: 2 behind an a, else 1/2."""

    def log_worth(self, tokens: Sequence[int], *, is_whole: bool) -> float:
        return math.log(ones(tokens)) if is_whole else math.log(2 if 0 in tokens else 0.5)


@pytest.mark.paper_step("awrs", "a critic: its change of score weights the particles")
@pytest.mark.parametrize(
    ("critic", "share"),
    [
        (Expecting(POSTERIOR, ones), 0.0),
        pytest.param(Misled(), 1.0, marks=pytest.mark.slow),
        pytest.param(Expecting(POSTERIOR, ones), 1.0, marks=pytest.mark.slow),
        pytest.param(Misled(), 0.0, marks=pytest.mark.slow),
    ],
)
def test_with_a_critic_evidence_and_weights_are_those_of_the_enumerated_worths(critic: Critic, share: float) -> None:
    valued = {text: chance * ones(text) for text, chance in POSTERIOR.items()}
    check_exact(populations(250, 3, critic=critic, share=share), 0.05, valued)


def test_a_critic_of_text_is_a_marked_function_and_draws_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    def likes_twos(text: str, is_whole: bool) -> float:
        return float("2" in text) if is_whole else 1.0

    module = ModuleType("critics_of_mine", "Critics.")
    monkeypatch.setitem(sys.modules, "critics_of_mine", module)
    module.__dict__.update(
        likes_twos=likes_twos, never=lambda *_: 0.0, wrong=lambda *_: -1.0, ends=lambda _, whole: 1.0 - whole
    )
    method, asked = make("awrs", regex="[ab][12]", critic="critics_of_mine:likes_twos", particles=8), prompts([BEGIN])
    with pytest.raises(FedsimError, match="not marked"):
        generate(method, Table(), asked, LIMITS, sources(1), **SIX_LETTERS)
    for function in vars(module).values():
        if callable(function):
            registry.for_scenarios(function)
    found = generate(method, Table(), prompts(*[[BEGIN]] * 6), LIMITS, sources(6), **SIX_LETTERS)
    assert {Letters().decode(own.tokens)[-1] for own in found if own.ending == "stop"} == {"2"}
    with pytest.raises(
        FedsimError, match=r"critic: 'critics_of_mine:wrong' says .* worth -1.0: expected a number of at"
    ):
        generate(make("awrs", critic="critics_of_mine:wrong"), Table(), asked, LIMITS, sources(1), **SIX_LETTERS)
    with pytest.raises(FedsimError, match="the critic of decoder 'awrs' reads text, and no tokenizer was passed"):
        generate(make("awrs", critic="critics_of_mine:never"), Table(), asked, LIMITS, sources(1))
    (none,) = generate(make("awrs", critic="critics_of_mine:never"), Table(), asked, LIMITS, sources(1), **SIX_LETTERS)
    assert (none.ending, none.reason[:26]) == ("failed", "the critic of decoder 'awr")
    stopped = make("awrs", regex="[ab]{2}", critic="critics_of_mine:ends")
    (late,) = generate(stopped, Table(), asked, LIMITS, sources(1), **SIX_LETTERS)
    assert late.ending == "failed"
    assert "gives 0 to every continuation of the text so far. Make it return more than 0" in late.reason


def test_a_text_satisfies_its_constraint_and_its_trace_counts_the_calls() -> None:
    asked = prompts([BEGIN], [0], [1], [3])
    method = make("awrs", regex=PATTERN, particles=4)
    found = generate(method, Table(), asked, LIMITS, sources(4), **SIX_LETTERS)
    for own in found:
        assert own.ending == "stop"
        assert own.tokens in POSTERIOR
        series = own.trace.series()
        assert all(calls <= 6 * 4 for calls in series["calls"])
        assert all(rows <= 4 for rows in series["rows"])
        assert sum(series["rejected"]) > 0
        assert sum(series["accepted"]) == len(own.tokens)


def test_one_particle_hands_out_each_token_as_it_is_drawn_and_several_what_they_agree_on() -> None:
    (one,) = generate(make("awrs", regex=PATTERN), Table(), prompts([BEGIN]), LIMITS, sources(1), **SIX_LETTERS)
    assert set(one.trace.tokens) == {1}
    (more,) = generate(
        make("awrs", regex="c1[ab]?|c12?", particles=6), Table(), prompts([BEGIN]), LIMITS, sources(1), **SIX_LETTERS
    )
    assert more.trace.tokens[:2] == (1, 1), "all begin with c1"
    assert more.tokens[:2] == (2, 3)


def test_a_text_may_end_as_soon_as_it_is_whole() -> None:
    method = make("awrs", regex="a?b1", ends="whole", particles=3)
    found = generate(method, Table(), prompts([BEGIN], [3]), Limits(max_new_tokens=5), sources(2), **SIX_LETTERS)
    assert {Letters().decode(own.tokens) for own in found} <= {"b1", "ab1"}
    assert {own.ending for own in found} == {"finished"}
    method = make("awrs", regex="a?", ends="whole")
    (empty,) = generate(method, Table(), prompts([BEGIN]), Limits(max_new_tokens=5), sources(1), **SIX_LETTERS)
    assert (empty.ending, empty.tokens) == ("finished", ())


class TokensBut:
    """Allows all tokens but some, and no end before two tokens."""

    def __init__(self, *refused: int) -> None:
        self.refused = refused

    def allows(self, tokens: Sequence[int]) -> bool:
        return not set(tokens) & set(self.refused)

    def completes(self, tokens: Sequence[int]) -> bool:
        return len(tokens) >= 2


def test_a_dead_end_a_spent_budget_and_a_cut_text_are_told_apart() -> None:
    class Trap:
        """Two tokens are allowed, and nothing behind them."""

        def allows(self, tokens: Sequence[int]) -> bool:
            return len(tokens) <= 2

        def completes(self, tokens: Sequence[int]) -> bool:
            return False

    asked, longer = prompts([BEGIN]), Limits(max_new_tokens=20, stop_tokens=frozenset({END}))
    for particles in (1, 3):
        config = AwrsConfig(particles=particles)
        (dead,) = generate(Awrs(config, Trap()), Table(), asked, LIMITS, sources(1))
        assert dead.ending == "failed"
        assert "accepts no next token after the text so far, so generation cannot continue (a dead end)" in dead.reason
        assert len(dead.tokens) == 2, "what was written stays"
        (spent,) = generate(
            Awrs(AwrsConfig(particles=particles, max_rejects=1), TokensBut(0, 1, 2, 3)),
            Table(),
            asked,
            longer,
            sources(1),
        )
        assert spent.ending == "failed"
        assert "spent the 1 rejections of a draw before a token was accepted. Raise max_rejects" in spent.reason
    method = make("awrs", regex="[ab]{9}", particles=3)
    (cut,) = generate(method, Table(), asked, LIMITS, sources(1), **SIX_LETTERS)
    assert (cut.ending, len(cut.tokens)) == ("length", LONGEST), "a text that could go on was cut"
    with pytest.raises(ValueError, match="max_rejects"):
        make("awrs", max_rejects=0)


def test_a_constraint_that_no_text_satisfies_fails_before_the_first_step() -> None:
    class Never(TokensBut):
        def allows(self, tokens: Sequence[int]) -> bool:
            return False

    never = Awrs(AwrsConfig(), Never())
    found = generate(never, Table(), prompts([BEGIN], [1]), LIMITS, sources(2))
    assert {own.ending for own in found} == {"failed"}
    assert {own.reason for own in found} == {"no text satisfies the constraint of decoder 'awrs'. Change it."}


def test_a_row_that_dies_leaves_the_others_alone() -> None:
    class ForOne(TokensBut):
        def allows(self, tokens: Sequence[int]) -> bool:
            return 0 not in tokens[:1] and super().allows(tokens)

    method = Awrs(AwrsConfig(max_rejects=1, particles=2), ForOne(1))
    found = generate(method, Table(), prompts(*[[number] for number in range(5)]), LIMITS, sources(5))
    alone = [generate(method, Table(), prompts([number]), LIMITS, [sources(5)[number]])[0] for number in range(5)]
    assert found == alone
    assert {own.ending for own in found} >= {"failed"}
    assert {own.ending for own in found} - {"failed"}


def test_what_is_missing_is_said() -> None:
    asked = prompts([BEGIN])
    with pytest.raises(FedsimError, match="no tokenizer was passed. Pass tokenizer= to generate"):
        generate(make("awrs", regex="a"), Table(), asked, LIMITS, sources(1))
    with pytest.raises(FedsimError, match='the limits name none. Set stop_tokens, .* ends = "whole"'):
        generate(make("awrs", regex="a"), Table(), asked, Limits(max_new_tokens=3), sources(1), **SIX_LETTERS)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"regex": "a", "grammar": 'start: "a"'}, "'regex' and 'grammar' are both set: expected a single constraint"),
        ({"estimator": "two-loops", "max_rejects": 3}, "max_rejects makes the estimator two-loops biased"),
        ({"temperature": 0}, "greater than 0"),
        ({"accepts": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make("awrs", **settings)


def test_a_function_is_named_and_must_be_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    def has_two(text: str, is_whole: bool) -> bool:
        return text.count("a") == 2 if is_whole else text.count("a") <= 2

    module = ModuleType("rules_of_mine", "Rules.")
    monkeypatch.setitem(sys.modules, "rules_of_mine", module)
    module.__dict__["has_two"] = has_two
    method, asked = make("awrs", predicate="rules_of_mine:has_two", particles=4), prompts([BEGIN], [0])
    longer = Limits(max_new_tokens=60, stop_tokens=frozenset({END}))
    with pytest.raises(FedsimError, match="not marked") as refused:
        generate(method, Table(), asked, LIMITS, sources(2), **SIX_LETTERS)
    assert "--trust" not in str(refused.value), "no command lets a predicate go without its mark"
    registry.for_scenarios(has_two)
    found = generate(method, Table(), asked, longer, sources(2), **SIX_LETTERS)
    assert all(own.ending == "stop" and own.tokens.count(0) == 2 for own in found)


@pytest.mark.parametrize(
    ("package", "settings", "whole"),
    [
        ("lark", {"grammar": 'start: "a" (start | "1") "b"'}, {"a1b", "aa1bb"}),
        ("llguidance", {"json_schema": {"enum": [1, 2, 12, 121]}}, {"1", "2", "12", "121"}),
    ],
)
def test_grammars_and_schemas_constrain_texts(package: str, settings: dict[str, Any], whole: set[str]) -> None:
    pytest.importorskip(package)
    limits = Limits(max_new_tokens=6, stop_tokens=frozenset({END}))
    method = make("awrs", particles=3, **settings)
    found = generate(method, Table(), prompts(*[[BEGIN]] * 12), limits, sources(12), **SIX_LETTERS)
    ended = [Letters().decode(own.tokens) for own in found if own.ending == "stop"]
    assert set(ended) <= whole
    assert len(ended) > 3


@pytest.mark.paper_step("awrs", "evidence of the constraint")
def test_the_evidence_of_a_row_is_told_when_nothing_goes_on_and_what_was_cut_weighs_nothing() -> None:
    own = Awrs.within("(ab|c)[12]", particles=2)
    assert (own.config.regex, own.config.ends, own.config.particles) == ("(ab|c)[12]", "whole", 2)
    whole, cut = Particle((2, 3), -1.0, is_whole=True), Particle((0, 1), 0.0)
    rows = (
        Population((whole, whole)),
        Population((whole, cut)),
        Population((whole, cut), is_full=True),
        Population((cut, cut), is_full=True),
    )
    found = own.log_evidence(Weighing(((0,),) * 4, (1,) * 4, rows))
    assert found == [pytest.approx(-1.0), None, pytest.approx(-1.0 - math.log(2)), -math.inf]


def test_without_a_constraint_the_law_is_the_softmax() -> None:
    for settings in ({}, {"particles": 3}, {"estimator": "geometric"}):
        method, limits = make("awrs", **settings), Limits(max_new_tokens=1)
        found = generate(method, Table(), prompts(*[[BEGIN]] * 600), limits, sources(600), batch_size=200)
        counts = torch.bincount(torch.tensor([own.tokens[0] for own in found]), minlength=6)
        expected = 600 * Table().table[0, BEGIN].softmax(-1)
        statistic = float(((counts - expected).square() / expected).sum())
        assert statistic < 25.7  # chi-square with 5 degrees of freedom, exceeded once in 10,000
        assert {own.trace.events[0]["rejected"] for own in found} == {0}
