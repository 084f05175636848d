"""Steering vector decoding: closed forms against the explicit Jacobian, slopes, calibration, and a trained model."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from fedsim.components.adapter._low_rank import adapters_off
from fedsim.components.decoder._steering import (
    Mode,
    Places,
    joined,
    places,
    steered,
    steering_vector,
    strength_of,
    sure_tokens,
)
from fedsim.components.decoder.svdecode import BesideBase, Svdecode, SvdecodeConfig, calibrate, costs
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.losses import IGNORED
from fedsim.core.types import Batch, Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, make, prompts, sources, tiny_llama

MODES: tuple[Mode, ...] = ("mean", "ratio", "newton", "search")
ASKED = prompts([1, 2, 3], [4], [5, 6], [7, 8, 9, 10])
LONG = Limits(max_new_tokens=12)


def random_scores(count: int, tokens: int = 50, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    tuned = 2 * torch.randn(count, tokens, generator=source).double()
    base = tuned + torch.randn(count, tokens, generator=source).double()
    return tuned, base, torch.multinomial(tuned.softmax(-1), 1, generator=source)[:, 0]


def jacobian(odds: Tensor) -> Tensor:
    return torch.diag(odds) - torch.outer(odds, odds)


def pair() -> BesideBase:
    """Two models of the same shape; the tuned one is near its base."""
    base, other = tiny_llama(seed=0), tiny_llama(seed=1)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for own, more in zip(tuned.parameters(), other.parameters(), strict=True):
            own.add_(more, alpha=0.3)
    return BesideBase(tuned, base)


def test_the_vector_is_the_jacobian_times_the_log_ratio_and_ignores_constants() -> None:
    for tuned, base in zip(*random_scores(20)[:2], strict=True):
        odds = tuned.softmax(-1)
        ratio = tuned.log_softmax(-1) - base.log_softmax(-1)
        own = steering_vector(tuned, base)
        torch.testing.assert_close(own, jacobian(odds) @ (ratio + 1), rtol=0, atol=1e-12)
        torch.testing.assert_close(own, jacobian(odds) @ (tuned - base + 17.0), rtol=0, atol=1e-12)
        divergence = kl_div(base.log_softmax(-1), tuned.log_softmax(-1), log_target=True, reduction="sum")
        torch.testing.assert_close(own, odds * (ratio - divergence), rtol=0, atol=1e-12)
        assert abs(float(own.sum())) < 1e-12
        torch.testing.assert_close(own, steering_vector(tuned + 3.0, base - 2.0), rtol=0, atol=1e-12)
    assert not steering_vector(tuned, tuned).any()


def test_tokens_that_a_model_never_writes_leave_the_vector_finite() -> None:
    tuned, base = torch.tensor([1.0, 0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0, -torch.inf])
    own = steering_vector(tuned, base)
    assert own.isfinite().all()
    assert own[0] > 0 > own[1]
    assert own[2] == 0


def test_the_slope_of_the_divergence_at_strength_0_is_the_inner_product() -> None:
    tuned, base, _ = random_scores(10, seed=1)
    target = torch.randn(10, 50, generator=torch.Generator().manual_seed(2)).double().softmax(-1)
    delta = steering_vector(tuned, base)

    def divergence(strength: float) -> Tensor:
        return (target * (target.log() - (tuned + strength * delta).log_softmax(-1))).sum(-1)

    slopes = (divergence(1e-4) - divergence(-1e-4)) / 2e-4
    torch.testing.assert_close(slopes, ((tuned.softmax(-1) - target) * delta).sum(-1), rtol=1e-4, atol=1e-6)


def test_one_gradient_step_on_free_scores_gives_the_vector_of_the_paper() -> None:
    _, base, _ = random_scores(1, seed=3)
    target = torch.randn(50, generator=torch.Generator().manual_seed(4)).double().softmax(-1)
    gap = target - base[0].softmax(-1)
    tuned = base[0] + 0.01 * gap
    delta = steering_vector(tuned, base[0])
    torch.testing.assert_close(delta, 0.01 * jacobian(tuned.softmax(-1)) @ gap)
    assert float((tuned.softmax(-1) - target) @ delta) < 0, "a small step along it helps"


def test_calibrated_strengths_do_what_they_promise() -> None:
    tuned, base, true = random_scores(1000, seed=5)
    own = places(tuned, base, true, 0.0, refuses=False)
    assert len(own.own) == 1000
    torch.testing.assert_close(own.costs(0.0), cross_entropy(tuned, true, reduction="none"))
    delta = steering_vector(tuned, base)
    torch.testing.assert_close(own.costs(0.7), cross_entropy(tuned + 0.7 * delta, true, reduction="none"))
    each = own.descents() / own.deltas.square().sum(1)
    for place in range(1000):
        alone = part(own, place)
        assert strength_of(alone, "mean") == pytest.approx(float(each[place]))
        assert float(alone.costs(float(each[place]))) <= float(alone.costs(0.0)) + 1e-12
    total = {mode: float(own.costs(strength_of(own, mode)).sum()) for mode in MODES}
    plain = float(own.costs(0.0).sum())
    assert total["ratio"] <= plain
    assert all(total["search"] <= other + 1e-9 for other in (*total.values(), plain))
    assert strength_of(own, "mean") == pytest.approx(float(each.mean()))
    assert abs(own.slope(strength_of(own, "search"))) < 1e-9 * 1000
    curvature = torch.stack([d @ jacobian(s.softmax(-1)) @ d for d, s in zip(delta, tuned, strict=True)])
    torch.testing.assert_close(own.curvatures(), curvature)
    assert (own.deltas.square().sum(1) >= 2 * curvature - 1e-12).all()
    step = 1e-5
    second = (own.costs(step) - 2 * own.costs(0.0) + own.costs(-step)) / step**2
    torch.testing.assert_close(second, curvature, rtol=1e-2, atol=1e-4)
    same = joined([part(own, place) for place in range(1000)])
    assert [strength_of(same, mode) for mode in MODES] == pytest.approx([strength_of(own, mode) for mode in MODES])


def part(own: Places, place: int) -> Places:
    some = slice(place, place + 1)
    return Places(own.scores[some], own.deltas[some], own.others[some], own.own[some], own.odds[some])


@pytest.mark.parametrize("refuses", [True, False])
def test_the_mask_leaves_unsure_tokens_out_of_norms_and_search(refuses: bool) -> None:
    tuned, base, true = random_scores(300, seed=6)
    own = places(tuned, base, true, 0.1, refuses=refuses)
    is_sure = sure_tokens(tuned, 0.1)
    kept = is_sure.gather(1, true[:, None])[:, 0]
    assert 100 < len(own.own) == int(kept.sum()) < 300
    delta = steering_vector(tuned, base).where(is_sure, 0.0)[kept]
    torch.testing.assert_close(own.deltas.square().sum(1), delta.square().sum(1))
    for strength in (0.0, 2.0, -2.0):
        moved = steered(tuned, base, strength, 0.1, refuses=refuses)
        torch.testing.assert_close(own.costs(strength), cross_entropy(moved, true, reduction="none")[kept])
        odds = moved.softmax(-1)
        assert odds.isfinite().all()
        assert not refuses or not odds[~is_sure].any()
        assert torch.equal((moved == -torch.inf).any(-1), torch.full((300,), refuses))
    best = strength_of(own, "search")
    assert all(own.costs(best).sum() <= own.costs(best + more).sum() + 1e-9 for more in (-0.1, 0.1))


def test_a_confidence_of_1_leaves_the_likeliest_token_alone() -> None:
    tuned, base, _ = random_scores(20)
    odds = steered(tuned, base, 3.0, 1.0, refuses=True).softmax(-1)
    assert torch.equal(odds, nn.functional.one_hot(tuned.argmax(-1), 50).double())


def test_without_a_difference_nothing_is_steered() -> None:
    tuned, _, true = random_scores(20)
    own = places(tuned, tuned, true, 0.0, refuses=False)
    assert [strength_of(own, mode) for mode in MODES] == [0.0] * 4
    same = BesideBase(tiny_llama(), tiny_llama())
    found = generate(make("svdecode", strength=5.0), same, ASKED, LONG, sources(4))
    assert [own.tokens for own in found] == [
        own.tokens for own in generate(make("greedy"), tiny_llama(), ASKED, LONG, sources(4))
    ]


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"outside": "left"}, ("greedy", {})),
        ({"outside": "refused"}, ("greedy", {})),
        ({"outside": "left", "temperature": 0.9, "top_p": 0.8}, ("sampled", {"temperature": 0.9, "top_p": 0.8})),
    ],
)
def test_at_strength_0_it_is_the_tuned_models_own_text(
    settings: dict[str, Any], plain: tuple[str, dict[str, Any]]
) -> None:
    model = pair()
    found = generate(make("svdecode", strength=0.0, **settings), model, ASKED, LONG, sources(4))
    expected = generate(make(plain[0], **plain[1]), model.tuned, ASKED, LONG, sources(4))
    assert [own.tokens for own in found] == [own.tokens for own in expected]


def test_a_steered_text_is_that_of_the_steered_scores_token_by_token() -> None:
    model, strength = pair().eval(), 4.0
    found = generate(make("svdecode", strength=strength), model, ASKED, LONG, sources(4))
    plain = generate(make("greedy"), model.tuned, ASKED, LONG, sources(4))
    assert [own.tokens for own in found] != [own.tokens for own in plain]
    with torch.no_grad():
        for prompt, own in zip(ASKED.prompts, found, strict=True):
            text = torch.tensor([[*prompt, *own.tokens]])
            scores = steered(model.tuned(text), model.base(text), strength, 0.1, refuses=True)
            assert scores[0, len(prompt) - 1 : -1].argmax(-1).tolist() == list(own.tokens)
    assert {event["rows"] for own in found for event in own.trace.events} == {2}, "every step does the same work"


def test_the_papers_sign_gives_the_same_text_and_draws() -> None:
    model, examples = pair(), batch(pair())
    drawn: dict[str, Any] = {"temperature": 0.8}
    texts = []
    for sign in ("task", "paper"):
        strength = calibrate(model, examples, SvdecodeConfig(sign=sign), "ratio")
        assert (strength > 0) == (sign == "task")
        method = make("svdecode", strength=strength, sign=sign, **drawn)
        texts.append([own.tokens for own in generate(method, model, ASKED, LONG, sources(4))])
    assert texts[0] == texts[1]


def batch(model: BesideBase, count: int = 40) -> Batch:
    """Texts that the tuned model wrote at random, and their next tokens; the last two do not count."""
    asked = prompts(*[[1 + row % 20] for row in range(count)])
    found = generate(make("sampled"), model.tuned, asked, Limits(max_new_tokens=10), sources(count))
    tokens = torch.tensor([[*prompt, *own.tokens] for prompt, own in zip(asked.prompts, found, strict=True)])
    labels = tokens[:, 1:].clone()
    labels[:, -2:] = IGNORED
    return Batch(tokens[:, :-1], labels)


def test_costs_are_those_of_one_pass_and_calibration_lowers_them() -> None:
    model = pair().eval()
    examples, config = batch(model), SvdecodeConfig(confidence=0.0, outside="left")
    with torch.no_grad():
        tuned = model.tuned(examples.inputs)
    expected = cross_entropy(tuned.flatten(0, 1), examples.labels.flatten(), reduction="none").view(40, -1).sum(1)
    torch.testing.assert_close(costs(model, examples, config), expected)
    best = calibrate(model, examples, config, "search")
    steered_costs = [
        float(costs(model, examples, config.model_copy(update={"strength": own})).sum())
        for own in (best, 0.0, calibrate(model, examples, config, "ratio"), 2 * best)
    ]
    assert min(steered_costs) == steered_costs[0] < steered_costs[1]
    assert steered_costs[2] <= steered_costs[1]


def test_adapters_that_are_taken_off_are_the_base() -> None:
    base = tiny_llama().eval()
    model, plain = adapted(base), copy.deepcopy(base)
    tokens = torch.tensor([ASKED.prompts[3]])
    with torch.no_grad():
        for name, own in model.named_parameters():
            if "lora_b" in name:
                own.normal_(generator=torch.Generator().manual_seed(0))
        tuned = model(tokens)
        with adapters_off(model):
            torch.testing.assert_close(model(tokens), plain(tokens))
        torch.testing.assert_close(model(tokens), tuned)
        assert not torch.allclose(tuned, plain(tokens))
    method = make("svdecode", strength=3.0)
    by_adapters = generate(method, model, ASKED, LONG, sources(4))
    by_pair = generate(method, BesideBase(copy.deepcopy(model), plain), ASKED, LONG, sources(4))
    assert [own.tokens for own in by_adapters] == [own.tokens for own in by_pair]
    examples = batch(BesideBase(model, plain))
    assert calibrate(model, examples, SvdecodeConfig()) == pytest.approx(
        calibrate(BesideBase(model, plain), examples, SvdecodeConfig())
    )


def adapted(model: nn.Module) -> nn.Module:
    method = registry.get("component", "lora")
    config = method.config.model_validate({"targets": ["*.q_proj", "*.v_proj", "*.o_proj"], "rank": 4})
    return method.make(config).prepare(model, torch.Generator().manual_seed(0)).to(torch.double)


def test_a_short_tuning_is_carried_further_on_text_it_has_not_seen() -> None:
    """Warm start on counting upwards by one, of a model that counts by one or two: held-out costs fall and fall."""
    source = torch.Generator().manual_seed(0)

    def counting(rows: int, step: int) -> Batch:
        first = torch.randint(VOCABULARY, (rows, 1), generator=source)
        tokens = (first + step * torch.arange(9)) % VOCABULARY
        return Batch(tokens[:, :-1], tokens[:, 1:])

    model = tiny_llama().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for number in range(60):
        step(model, optimizer, counting(16, 1 + number % 2))
    model = adapted(model)
    optimizer = torch.optim.Adam([own for own in model.parameters() if own.requires_grad], lr=5e-3)
    for _ in range(12):
        step(model, optimizer, counting(16, 1))
    model.eval()
    held, test = counting(30, 1), counting(60, 1)
    config = SvdecodeConfig(confidence=0.1)
    strength = calibrate(model, held, config, "search")
    tuned, moved = (
        float(costs(model, test, config.model_copy(update={"strength": own})).sum()) for own in (0.0, strength)
    )
    with adapters_off(model), torch.no_grad():
        base = float(cross_entropy(model(test.inputs).flatten(0, 1), test.labels.flatten(), reduction="sum"))
    assert strength > 0
    assert base > tuned > moved


def step(model: nn.Module, optimizer: torch.optim.Optimizer, examples: Batch) -> None:
    optimizer.zero_grad()
    cross_entropy(model(examples.inputs).flatten(0, 1), examples.labels.flatten()).backward()
    optimizer.step()


def test_what_has_no_base_or_another_tokenizer_is_refused() -> None:
    method = make("svdecode", strength=1.0)
    with pytest.raises(FedsimError, match=r"neither adapters .* Give it as BesideBase\(tuned, base\), or set strength"):
        generate(method, tiny_llama(), ASKED, LONG, sources(4))
    odd = BesideBase(tiny_llama(), tiny_llama(vocabulary=30))
    with pytest.raises(FedsimError, match="scores 23 tokens and its base 30: they have different tokenizers"):
        generate(method, odd, ASKED, LONG, sources(4))
    with pytest.raises(FedsimError, match="scores 23 tokens and its base 30"):
        calibrate(odd, batch(pair()), SvdecodeConfig())
    with pytest.raises(FedsimError, match="neither adapters"):
        calibrate(tiny_llama(), batch(pair()), SvdecodeConfig())
    unlikely = Batch(torch.tensor([[1, 2]]), torch.tensor([[IGNORED, IGNORED]]))
    with pytest.raises(FedsimError, match="no true token has 0.1 of the largest odds"):
        calibrate(pair(), unlikely, SvdecodeConfig())


def test_scores_of_the_base_that_are_no_numbers_end_their_text_alone() -> None:
    class Broken(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            scores = tiny_llama().eval()(tokens).clone()
            scores[tokens[:, 0] == 4, 3:] = torch.nan
            return scores

    model = pair()
    found = generate(make("svdecode", strength=1.0), BesideBase(model.tuned, Broken()), ASKED, LONG, sources(4))
    assert [own.ending for own in found] == ["length", "failed", "length", "length"]
    assert len(found[1].tokens) == 3


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"top_p": 0.9}, "at temperature 0 nothing is drawn, so that 'top_p' has no meaning"),
        ({"confidence": 1.5}, "less than or equal to 1"),
        ({"strength": float("nan")}, "finite"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make("svdecode", **settings)


def test_steered_texts_do_not_depend_on_those_beside_them() -> None:
    method, model = make("svdecode", strength=2.0, temperature=1.0), pair()
    together = generate(method, model, ASKED, LONG, sources(4))
    alone = generate(method, model, ASKED, LONG, sources(4), at_once=1)
    assert [(own.tokens, own.trace) for own in together] == [(own.tokens, own.trace) for own in alone]
    assert isinstance(method, Svdecode)
