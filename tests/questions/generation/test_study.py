"""A model writes for the four questions; its texts are the same again, and a decoder that leaks one bit shows it."""

from dataclasses import replace
from math import factorial, log2

import pytest
import torch
from torch import nn

from fedsim.core import registry
from fedsim.questions.generation.side_channels import ScoringOptions, TraceInquiry
from fedsim.questions.generation.study import references, study
from fedsim.questions.generation.types import TraceQuestion
from tests.questions.generation.studied import MATERIAL, SECRETS, speaker


def asked(name: str) -> TraceInquiry:
    method = registry.get("attack", name)
    return TraceInquiry(method.make(method.config()).with_name(name), name, "counts")


def test_the_same_seed_writes_the_same_traces() -> None:
    first, second = (speaker().speech("prompt", MATERIAL) for _ in range(2))
    assert [text.tokens for text in first.texts] == [text.tokens for text in second.texts]
    assert [text.trace for text in first.texts] == [text.trace for text in second.texts]
    other = replace(speaker(), seed=1).speech("prompt", MATERIAL)
    assert [text.tokens for text in first.texts] != [text.tokens for text in other.texts]


def test_of_prompts_two_thirds_are_the_attackers_and_of_candidates_every_other_one() -> None:
    spoken = speaker().speech("prompt", MATERIAL)
    assert spoken.truth == tuple(number for number in range(4) for _ in range(6))
    assert spoken.is_known == (True,) * 4 + (False,) * 2 + spoken.is_known[6:]
    assert [text.tokens for text in spoken.texts[:6]] != [spoken.texts[0].tokens] * 6
    members = speaker().speech("member", MATERIAL)
    assert members.truth == (1,) * 12 + (0,) * 12
    assert members.is_known[10:14] == (True, False, True, False)
    secrets = speaker().speech("planted", MATERIAL)
    assert (len(secrets.texts), secrets.truth[3:5], sum(secrets.is_secret)) == (12, (0, 1), 3)


def test_a_decoder_that_leaks_by_construction_is_read_and_a_constant_one_is_not() -> None:
    wanted: list[tuple[TraceQuestion, TraceInquiry]] = [
        ("member", asked("trace-mean")),
        ("bits", asked("trace-figures")),
    ]
    leaky = {finding.label: finding for finding in study(speaker(), MATERIAL, wanted, ScoringOptions()).findings}
    assert leaky["trace-mean"].value.value == 1.0
    assert leaky["trace-figures"].value.value == pytest.approx(1.0, abs=0.6)  # four deviations of 24 texts
    assert leaky["trace-figures"].p_value == 0.01
    plain = {
        finding.label: finding for finding in study(speaker("greedy"), MATERIAL, wanted, ScoringOptions()).findings
    }
    assert plain["trace-mean"].value.value == 0.5
    assert plain["trace-figures"].p_value == 1.0


def test_prompt_and_bits_share_their_texts() -> None:
    done = study(
        speaker(), MATERIAL, [("prompt", asked("trace-forest")), ("bits", asked("trace-figures"))], ScoringOptions()
    )
    first, second = done.speeches
    assert first.texts is second.texts
    assert any(first.is_known)
    assert not any(second.is_known)


def test_what_tells_without_a_trace_stands_beside() -> None:
    done = study(
        speaker(), MATERIAL, [("member", asked("trace-mean")), ("planted", asked("trace-mean"))], ScoringOptions()
    )
    beside = {finding.label: finding for finding in done.findings if not finding.method}
    assert {label: own.value.n for label, own in beside.items() if own.value} == {
        "loss of the whole sentence": 24,
        "log-perplexity of planted sentences": 2,
        "written by the decoder": 2,
        "written, though never planted": 1,
    }
    assert {label: (own.role, own.chance_level) for label, own in beside.items()} == {
        "loss of the whole sentence": ("positive-control", 0.5),
        "log-perplexity of planted sentences": ("positive-control", pytest.approx(2 - log2(factorial(4)) / 4)),
        "written by the decoder": ("attack", 0.01),
        "written, though never planted": ("negative-control", 0.01),
    }
    (strange,) = [finding for finding in done.findings if finding.label == "trace-mean, never planted"]
    assert strange.role == "negative-control"
    assert strange.value.n == 1


def test_where_none_was_planted_what_is_written_is_asked_all_the_same() -> None:
    material = replace(MATERIAL, secrets=(SECRETS[2],))
    (own,) = references(speaker(), material, "planted", ScoringOptions())
    assert own.label == "written, though never planted"


@pytest.mark.slow
def test_who_has_the_text_and_the_model_tells_most_prompts() -> None:
    done = study(speaker("sampled"), MATERIAL, [("prompt", asked("trace-forest"))], ScoringOptions())
    (own,) = [finding for finding in done.findings if finding.label.startswith("likelihood")]
    assert (own.role, own.chance_level) == ("positive-control", 0.25)
    texts = done.speeches[0]
    seen = [place for place, known in enumerate(texts.is_known) if not known]
    model, right = speaker().model, list[bool]()
    for place in seen:
        text = texts.texts[place].tokens
        odds = [_probability(model, prompt, text) for prompt in MATERIAL.prompts]
        right.append(odds.index(max(odds)) == texts.truth[place])
    assert own.value.value == pytest.approx(sum(right) / len(right))  # prompts have as many seen texts each
    assert own.value.value > 0.5


def _probability(model: nn.Module, prompt: tuple[int, ...], text: tuple[int, ...]) -> float:
    """The probability of a text behind a prompt, token by token."""
    found = 1.0
    for end in range(len(text)):
        scores = model(torch.tensor([[*prompt, *text[:end]]]))[0, -1].detach()
        found *= float(scores.softmax(-1)[text[end]])
    return found


def test_a_secret_that_is_written_counts() -> None:
    own = speaker("greedy")
    (text,) = own.write([SECRETS[0].known_prefix], "written")
    whole = own.tokenizer.decode([*SECRETS[0].known_prefix, *text.tokens])
    material = replace(MATERIAL, secrets=(replace(SECRETS[0], text=whole), SECRETS[1]))
    done = study(own, material, [("planted", asked("trace-mean"))], ScoringOptions())
    (written,) = [finding for finding in done.findings if finding.metric == "secret_extraction_rate"]
    assert written.value.value == 0.5
