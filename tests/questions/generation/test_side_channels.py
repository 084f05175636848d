"""What must hold of the protocol: a constant schedule is at chance, a planted bit is read whole, padding removes it."""

from collections.abc import Sequence
from dataclasses import replace
from math import factorial, log2
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core import registry
from fedsim.core.hooks import Mitigation
from fedsim.core.types import Config, Event, Generated, Trace, TraceView
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.side_channels import (
    GeneratedTexts,
    ScoringOptions,
    TraceInquiry,
    case_of,
    controls,
    judge,
)
from fedsim.questions.generation.types import TraceCase, TraceQuestion
from fedsim.record import Finding
from tests.attacks.generation.cases import speech, text
from tests.threat.reached import reachable

JUDGING = ScoringOptions(seed=5)
METRICS = {"prompt": "prompt_accuracy", "member": "trace_auc", "planted": "trace_exposure", "bits": "trace_bits"}


def asked(name: str, view: TraceView = "counts", hidden: str | None = None) -> TraceInquiry:
    made = registry.get("attack", name)
    attack = made.make(made.config()).with_name(name)
    mitigation: Mitigation[Any] | None = None
    if hidden is not None:
        own = registry.get("component", hidden)
        mitigation = own.make(own.config()).with_name(hidden)
    return TraceInquiry(attack, f"{name}, {view}", view, mitigation)


def costs(own: Finding) -> list[float]:
    return [own.extra_metrics[name].value for name in ("step_ratio", "token_ratio")]


def found(own: Finding) -> tuple[float, float, float]:
    assert not own.failure
    assert own.value.low is not None
    assert own.value.high is not None
    return own.value.low, own.value.value, own.value.high


def many(leaks: bool, prompts: int = 12, copies: int = 6) -> GeneratedTexts:
    """Texts of several prompts, whose number is the pace if it leaks."""
    truth = tuple(number for number in range(prompts) for _ in range(copies))
    texts = tuple(text(1 + (own if leaks else 0), 60) for own in truth)
    known = tuple(place % copies < copies - 2 for place in range(len(truth)))
    return GeneratedTexts("prompt", texts, truth, known)


def test_a_constant_schedule_is_at_chance() -> None:
    low, _, high = found(judge(many(leaks=False), asked("trace-forest"), JUDGING))
    assert low <= 1 / 12 <= high
    bits = judge(speech("bits", leaks=False), asked("trace-figures"), JUDGING)
    assert (found(bits)[1], bits.p_value) == (0.0, 1.0)


def test_a_bit_that_leaks_by_construction_is_read_whole() -> None:
    accuracy = judge(speech("prompt"), asked("trace-forest"), JUDGING)
    assert (found(accuracy)[1], accuracy.chance_level) == (1.0, 0.5)
    bits = judge(speech("bits", copies=60), asked("trace-figures"), JUDGING)
    assert found(bits)[1] == pytest.approx(1.0, abs=0.05)  # as the protocol asks
    assert bits.p_value <= 0.01


def test_padding_removes_the_bit_and_says_what_it_costs() -> None:
    hidden = judge(speech("bits"), asked("trace-figures", hidden="trace-padding"), JUDGING)
    assert found(hidden)[1] == 0.0
    assert hidden.scope["mitigation"] == "trace-padding"
    assert hidden.extra_metrics["step_ratio"].value == pytest.approx(24 / 18)
    assert hidden.extra_metrics["token_ratio"].value == 2.0
    accuracy = judge(speech("prompt"), asked("trace-forest", hidden="trace-padding"), JUDGING)
    assert found(accuracy)[1] == 0.5
    grouped = judge(speech("bits"), asked("trace-figures", hidden="trace-grouping"), JUDGING)
    assert grouped.scope["mitigation"] == "trace-grouping (steps 4)"


def test_a_cost_is_told_of_the_smallest_texts_too() -> None:
    texts = GeneratedTexts("bits", (text(1, 1), text(1, 0)), (0, 1), (False, False))
    hidden = judge(texts, asked("trace-figures", hidden="trace-padding"), JUDGING)
    assert (hidden.failure, *costs(hidden)) == ("", 2.0, 2.0)
    empty = judge(texts.of([text(1, 0)] * 2), asked("trace-figures", hidden="trace-padding"), JUDGING)
    assert (empty.failure, *costs(empty)) == ("", 0.0, 0.0)


def test_controls_are_the_text_itself_and_shuffled_labels() -> None:
    text_itself, shuffled = controls(many(leaks=True), asked("trace-forest"), JUDGING)
    assert (text_itself.scope["view"], text_itself.role, found(text_itself)[1]) == ("outputs", "positive-control", 1.0)
    assert shuffled.role == "negative-control"
    low, _, high = found(shuffled)
    assert low <= 1 / 12 <= high
    hidden = asked("trace-forest", hidden="trace-padding")
    under_padding, _ = controls(many(leaks=True), hidden, JUDGING)
    assert (under_padding.scope, under_padding.extra_metrics, found(under_padding)) == (
        text_itself.scope,
        {},
        found(text_itself),
    )
    (member,) = controls(speech("member", copies=60), asked("trace-mean"), JUDGING)
    low, _, high = found(member)
    assert low <= 0.5 <= high


@pytest.mark.parametrize("question", METRICS)
def test_every_finding_is_a_declared_metric_with_an_interval_and_its_chance(question: TraceQuestion) -> None:
    kinds = {name: method.derived_from(TraceAttack) for name, method in registry.methods("attack", TraceAttack).items()}
    name = next(name for name, kind in kinds.items() if kind is not None and question in kind.questions)
    texts = many(leaks=True, copies=12)
    if question == "planted":
        texts = replace(texts, question=question, is_known=(False,) * 144, is_secret=(True, *(False,) * 11) * 12)
    judged = judge(texts if question == "planted" else speech(question), asked(name), JUDGING)
    assert judged.metric == METRICS[question]
    assert registry.get("metric", judged.metric).declares is not None
    assert found(judged)[0] <= found(judged)[1] <= found(judged)[2]
    assert judged.chance_level is not None
    if question in ("prompt", "member"):
        assert judged.chance_level == 0.5


def test_a_planted_secret_is_ranked_among_the_others_of_its_form() -> None:
    def exposure(first: int, others: int) -> float:
        """Score three secrets of eight fillings, whose planted ones take steps of so many tokens."""
        paces = (first, *[others] * 7) * 3
        truth, is_secret = tuple(number for number in range(3) for _ in range(8)), (True, *[False] * 7) * 3
        texts = GeneratedTexts("planted", tuple(map(text, paces)), truth, (False,) * 24, is_secret)
        judged = judge(texts, asked("trace-mean"), JUDGING)
        assert judged.chance_level == pytest.approx(3 - log2(factorial(8)) / 8)  # the mean over ranks 1 to 8
        return found(judged)[1]

    assert exposure(3, 2) == 3.0
    assert exposure(2, 3) == 0.0


def test_rates_at_few_false_alarms_stand_where_enough_others_allow_them() -> None:
    judged = judge(speech("member", copies=40), asked("trace-mean"), JUDGING)
    assert list(judged.extra_metrics) == ["tpr_at_fpr_0.1"]
    assert judged.extra_metrics["tpr_at_fpr_0.1"].value == 1.0


def test_why_an_attack_failed_stands_in_the_finding() -> None:
    class Broken(TraceAttack[Config]):
        questions = ("prompt",)

        def search(self, case: TraceCase, generator: torch.Generator) -> torch.Tensor:
            raise ZeroDivisionError("oh")

    judged = judge(speech("prompt"), TraceInquiry(Broken(Config()).with_name("broken"), "broken", "counts"), JUDGING)
    assert judged.value is None
    assert "oh" in judged.failure


@pytest.mark.parametrize("view", ["counts", "work"])
def test_a_walk_from_the_case_finds_no_text_and_no_truth(view: TraceView) -> None:
    texts = tuple(
        Generated(Trace((1, 2), (Event(accepted=1), Event(accepted=2))), "length", (7001, 7002, 7003)) for _ in range(4)
    )
    own = GeneratedTexts("bits", texts, (8001, 8002, 8001, 8002), (False,) * 4)
    seen: Sequence[object] = list(reachable(case_of(own, view, range(4))))
    assert 2 in seen
    assert not {7001, 7002, 7003, 8001, 8002} & {item for item in seen if isinstance(item, int)}
    assert not any(isinstance(item, Generated | Trace | GeneratedTexts | nn.Module) for item in seen)


@pytest.mark.parametrize("count", [23, 25, 1])
def test_an_answer_has_one_entry_for_each_text(count: int) -> None:
    answers = ScoringOptions(seed=5, answer=lambda _attack, _case, _generator: torch.zeros(count))
    finding = judge(many(leaks=True), asked("trace-forest"), answers)
    assert finding.failure == f"the answer has shape ({count},), expected (24,)."
