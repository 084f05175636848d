"""Steering vector decoding: closed forms against the explicit Jacobian, slopes, calibration, and a trained model."""

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.components.core.low_rank import adapters_off
from fedsim.components.decoder._second_model import second_model
from fedsim.components.decoder._steering import (
    Mode,
    places,
    steer_scores,
    strength_of,
)
from fedsim.components.decoder.svdecode import BesideBase, Svdecode, SvdecodeConfig, calibrate, costs
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Limits
from fedsim.generation import generate
from tests.components.decoder.steered import MODES, random_scores
from tests.components.generating import VOCABULARY, make, prompts, sources, tiny_llama
from tests.models.packaged import package_model

ASKED = prompts([1, 2, 3], [4], [5, 6], [7, 8, 9, 10])

LONG = Limits(max_new_tokens=12)


def pair() -> BesideBase:
    """Two models of the same shape; the tuned one is near its base."""
    base, other = tiny_llama(seed=0), tiny_llama(seed=1)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter, more in zip(tuned.parameters(), other.parameters(), strict=True):
            parameter.add_(more, alpha=0.3)
    return BesideBase(tuned, base)


def test_without_a_difference_nothing_is_steered() -> None:
    tuned, _, true = random_scores(20)
    own = places(tuned, tuned, true, 0.0, refuses=False)
    assert [strength_of(own, mode) for mode in MODES] == [0.0] * 4
    same = BesideBase(tiny_llama(), tiny_llama())
    texts = generate(make("svdecode", strength=5.0), same, ASKED, LONG, sources(4))
    assert [text.tokens for text in texts] == [
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
    texts = generate(make("svdecode", strength=0.0, **settings), model, ASKED, LONG, sources(4))
    expected = generate(make(plain[0], **plain[1]), model.tuned, ASKED, LONG, sources(4))
    assert [text.tokens for text in texts] == [own.tokens for own in expected]


@pytest.mark.paper_step("svdecode", "steering vector of the difference of both models")
def test_a_steered_text_is_that_of_the_steered_scores_token_by_token() -> None:
    model, strength = pair().eval(), 4.0
    texts = generate(make("svdecode", strength=strength), model, ASKED, LONG, sources(4))
    plain = generate(make("greedy"), model.tuned, ASKED, LONG, sources(4))
    assert [own.tokens for own in texts] != [own.tokens for own in plain]
    with torch.no_grad():
        for prompt, own in zip(ASKED.prompts, texts, strict=True):
            text = torch.tensor([[*prompt, *own.tokens]])
            scores = steer_scores(model.tuned(text), model.base(text), strength, 0.1, refuses=True)
            assert scores[0, len(prompt) - 1 : -1].argmax(-1).tolist() == list(own.tokens)
    assert {event["rows"] for own in texts for event in own.trace.events} == {2}, "every step does the same work"


def test_the_papers_sign_gives_the_same_text_and_draws() -> None:
    model, examples = pair(), batch(pair())
    drawn: dict[str, Any] = {"temperature": 0.8}
    texts = []
    for sign in ("task", "paper"):
        strength = calibrate(model, examples, SvdecodeConfig(strength=0, sign=sign), "ratio")
        assert (strength > 0) == (sign == "task")
        method = make("svdecode", strength=strength, sign=sign, **drawn)
        texts.append([own.tokens for own in generate(method, model, ASKED, LONG, sources(4))])
    assert texts[0] == texts[1]


def batch(model: BesideBase, count: int = 40) -> Batch:
    """Texts that the tuned model wrote at random, and their next tokens; the last two do not count."""
    asked = prompts(*[[1 + row % 20] for row in range(count)])
    texts = generate(make("sampled"), model.tuned, asked, Limits(max_new_tokens=10), sources(count))
    tokens = torch.tensor([[*prompt, *text.tokens] for prompt, text in zip(asked.prompts, texts, strict=True)])
    labels = tokens[:, 1:].clone()
    labels[:, -2:] = IGNORED
    return Batch(tokens[:, :-1], labels)


@pytest.mark.paper_step("svdecode", "strength from labelled text")
def test_costs_are_those_of_one_pass_and_calibration_lowers_them() -> None:
    model = pair().eval()
    examples, config = batch(model), SvdecodeConfig(strength=0, confidence=0.0, outside="left")
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


@pytest.mark.paper_step("svdecode", "only sure tokens move")
@pytest.mark.parametrize("sign", ["task", "paper"])
def test_costs_move_the_sure_tokens_alone_and_refuse_none(sign: Literal["task", "paper"]) -> None:
    model, strength = pair().eval(), 3.0
    examples = batch(model, 6)
    config = SvdecodeConfig(strength=strength if sign == "task" else -strength, confidence=0.5, sign=sign)
    assert config.outside == "refused"
    with torch.no_grad():
        tuned, base = (own(examples.inputs).double() for own in (model.tuned, model.base))
    odds, moved = tuned.softmax(-1), tuned - base
    delta = odds * (moved - (odds * moved).sum(-1, keepdim=True))
    is_sure = odds >= 0.5 * odds.amax(-1, keepdim=True)
    scores = tuned + strength * delta * is_sure
    expected = cross_entropy(scores.flatten(0, 1), examples.labels.flatten(), reduction="none").view(6, -1).sum(1)
    true = examples.labels.clamp_min(0)[..., None]
    assert not is_sure.gather(-1, true)[examples.labels != IGNORED].all(), "some true tokens are not sure"
    torch.testing.assert_close(costs(model, examples, config), expected)


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
    assert calibrate(model, examples, SvdecodeConfig(strength=0)) == pytest.approx(
        calibrate(BesideBase(model, plain), examples, SvdecodeConfig(strength=0))
    )


def adapted(model: nn.Module) -> nn.Module:
    method = registry.get("component", "lora")
    config = method.config.model_validate({"targets": ["*.q_proj", "*.v_proj", "*.o_proj"], "rank": 4})
    return method.make(config).prepare(model, torch.Generator().manual_seed(0)).to(torch.double)


def test_what_has_no_base_or_another_tokenizer_is_refused() -> None:
    method = make("svdecode", strength=1.0)
    with pytest.raises(
        FedsimError,
        match=r"neither removable adapters .* setting base, pass BesideBase\(tuned, base\), or set strength",
    ):
        generate(method, tiny_llama(), ASKED, LONG, sources(4))
    odd = BesideBase(tiny_llama(), tiny_llama(vocabulary=30))
    with pytest.raises(FedsimError, match="scores 23 tokens and its base 30: they have different tokenizers"):
        generate(method, odd, ASKED, LONG, sources(4))
    with pytest.raises(FedsimError, match="scores 23 tokens and its base 30"):
        calibrate(odd, batch(pair()), SvdecodeConfig(strength=0))
    with pytest.raises(FedsimError, match="neither removable adapters"):
        calibrate(tiny_llama(), batch(pair()), SvdecodeConfig(strength=0))
    unlikely = Batch(torch.tensor([[1, 2]]), torch.tensor([[IGNORED, IGNORED]]))
    with pytest.raises(FedsimError, match="no true token has 0.1 of the largest odds"):
        calibrate(pair(), unlikely, SvdecodeConfig(strength=0))


def test_scores_of_the_base_that_are_no_numbers_end_their_text_alone() -> None:
    class Broken(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            scores = tiny_llama().eval()(tokens).clone()
            scores[tokens[:, 0] == 4, 3:] = torch.nan
            return scores

    model = pair()
    texts = generate(make("svdecode", strength=1.0), BesideBase(model.tuned, Broken()), ASKED, LONG, sources(4))
    assert [text.ending for text in texts] == ["length", "failed", "length", "length"]
    assert len(texts[1].tokens) == 3


def test_the_base_of_the_settings_is_loaded_and_steers_as_one_that_is_given(tmp_path: Path) -> None:
    for name, seed in (("tuned", 0), ("base", 1)):
        own = package_model("Llama")
        torch.nn.init.normal_(own.lm_head.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
        own.save_pretrained(tmp_path / name)
    tuned, base = (second_model(str(tmp_path / name), VOCABULARY) for name in ("tuned", "base"))
    examples = batch(BesideBase(tuned, base), 6)
    by_name = make("svdecode", strength=4.0, base=str(tmp_path / "base"))
    given, plain = make("svdecode", strength=4.0), make("greedy")
    texts = [
        [own.tokens for own in generate(method, model, ASKED, LONG, sources(4))]
        for method, model in ((by_name, tuned), (given, BesideBase(tuned, base)), (plain, tuned))
    ]
    assert texts[0] == texts[1] != texts[2]
    config = SvdecodeConfig(strength="calibrate", base=str(tmp_path / "base"))
    assert calibrate(tuned, examples, config) == calibrate(BesideBase(tuned, base), examples, config)
    with pytest.raises(FedsimError, match="there is no model 'bsae'"):
        generate(make("svdecode", strength=4.0, base="bsae"), tuned, ASKED, LONG, sources(4))


@pytest.mark.paper_step("svdecode", "top-k and top-p of the steered scores")
def test_of_top_k_the_likeliest_alone_are_drawn_by_their_steered_odds() -> None:
    model, count, k = pair().eval(), 600, 3
    method = make("svdecode", strength=4.0, temperature=1.5, top_k=k, outside="left")
    found = generate(method, model, prompts(*[[1, 2, 3]] * count), Limits(max_new_tokens=1), sources(count))
    text = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        scores = steer_scores(model.tuned(text), model.base(text), 4.0, 0.1, refuses=False)[0, -1].double() / 1.5
    top = scores.topk(k)
    counts = torch.tensor([sum(own.tokens[0] == token for own in found) for token in top.indices.tolist()])
    assert int(counts.sum()) == count
    expected = count * top.values.softmax(-1)
    assert float(((counts - expected).square() / expected).sum()) < 18.4  # chi-square with 2, exceeded once in 10,000


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"top_p": 0.9}, "at temperature 0 nothing is drawn, so that 'top_p' has no meaning"),
        ({"top_k": 2}, "at temperature 0 nothing is drawn, so that 'top_k' has no meaning"),
        ({"confidence": 1.5}, "less than or equal to 1"),
        ({"strength": float("nan")}, "finite"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make("svdecode", **settings)


@pytest.mark.parametrize("mode", MODES)
def test_fitted_it_writes_with_the_strength_that_calibration_gives(mode: Mode) -> None:
    model = pair()
    texts = batch(model)
    open_one = make("svdecode", strength="calibrate", mode=mode)
    strength = calibrate(model, texts, open_one.config, mode)
    assert strength != 0
    fitted = open_one.fit_to_texts(model, texts)
    assert (fitted.config.strength, fitted.name) == (strength, "svdecode")
    stated = make("svdecode", strength=strength)
    assert [own.tokens for own in generate(fitted, model, ASKED, LONG, sources(4))] == [
        own.tokens for own in generate(stated, model, ASKED, LONG, sources(4))
    ]
    assert stated.fit_to_texts(model, texts) is stated


def test_a_strength_to_calibrate_needs_texts() -> None:
    with pytest.raises(FedsimError, match="needs texts of clients, which a scenario's table"):
        generate(make("svdecode", strength="calibrate"), pair(), ASKED, LONG, sources(4))
    nothing = Batch(torch.zeros(0, 4).long(), torch.zeros(0, 4).long())
    with pytest.raises(FedsimError, match='every text of the clients was. Set generation.calibration = "test"'):
        make("svdecode", strength="calibrate").fit_to_texts(pair(), nothing)


def test_steered_texts_do_not_depend_on_those_beside_them() -> None:
    method, model = make("svdecode", strength=2.0, temperature=1.0), pair()
    together = generate(method, model, ASKED, LONG, sources(4))
    alone = generate(method, model, ASKED, LONG, sources(4), batch_size=1)
    assert [(own.tokens, own.trace) for own in together] == [(own.tokens, own.trace) for own in alone]
    assert isinstance(method, Svdecode)
