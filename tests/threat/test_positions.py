"""An attack that looks at nothing and answers by position alone is at chance, whatever question fedsim asks."""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.hooks import Mitigation
from fedsim.core.types import Config, Tensors, TraceView, Update, WireEntry
from fedsim.generation import loop
from fedsim.privacy.audit import coins
from fedsim.privacy.one_run import count_right
from fedsim.processes.methods import InProcessRunner
from fedsim.questions.attributes import observe as attributes
from fedsim.questions.attributes.hooks import AttributeAttack
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.side_channels import (
    GeneratedTexts,
    ScoringOptions,
    TraceInquiry,
    answer_here,
    controls,
    judge,
)
from fedsim.questions.generation.study import StudyInputs, TextGenerator, study
from fedsim.questions.generation.types import TraceCase, TraceQuestion
from fedsim.questions.membership.types import Target
from fedsim.record import Finding
from fedsim.scenario import world as worlds
from tests.attacks.generation.cases import text
from tests.experiment.running import Build
from tests.questions.attributes.described import SMALL
from tests.questions.generation.studied import MATERIAL, speaker
from tests.questions.membership.judged import Cases

QUESTIONS: tuple[TraceQuestion, ...] = tuple(
    own for own in get_args(TraceQuestion) if own != "drawn"
)  # no attack answers that
PROMPTS, COPIES = 12, 6
JUDGED = 24  # how often; chance is asked of their mean


class Positions(TraceAttack[Config]):
    """Knows how the texts were asked for, and answers as if they came in that order."""

    questions = QUESTIONS

    def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        place = torch.arange(len(case.observations), dtype=torch.double)
        if case.question == "prompt":
            return (place * PROMPTS / len(case.observations)).floor()
        if case.question == "planted":
            return -(place % COPIES)
        return place[:, None] if case.question == "bits" else -place


def asked(view: TraceView = "counts", hidden: Mitigation[Any] | None = None) -> TraceInquiry:
    return TraceInquiry(Positions(Config()).with_name("positions"), "positions", view, hidden)


def spoken(question: TraceQuestion) -> GeneratedTexts:
    """Texts that are all alike, in the order in which they are asked for."""
    truth = tuple(number for number in range(PROMPTS) for _ in range(COPIES))
    first = tuple(place % COPIES == 0 for place in range(len(truth))) if question == "planted" else ()
    if question == "member":
        truth = tuple(int(number < PROMPTS / 2) for number in truth)
    known = tuple(question in ("prompt", "member") and place % COPIES < COPIES - 2 for place in range(len(truth)))
    return GeneratedTexts(question, (text(1),) * len(truth), truth, known, first)


def value(own: Finding) -> float:
    assert not own.failure
    return own.value.value


def assert_at_chance(found: Sequence[float], chance: float) -> None:
    """Assert that the mean is within four of its own standard errors: one in 1 800 of 24 fair draws is outside."""
    error = np.std(found, ddof=1) / sqrt(len(found))
    assert abs(np.mean(found) - chance) < 4 * error + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [None, pytest.param("trace-padding", marks=pytest.mark.slow)])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_position_of_a_trace_tells_nothing(question: TraceQuestion, hidden: str | None) -> None:
    method = registry.get("component", hidden) if hidden else None
    mitigation = method.make(method.config()).with_name(method.name) if method else None
    findings = [judge(spoken(question), asked(hidden=mitigation), ScoringOptions(seed)) for seed in range(JUDGED)]
    if question == "bits":
        at_random = [finding.p_value for finding in findings if finding.p_value is not None]
        assert len(at_random) == JUDGED
        assert sum(p <= 0.05 for p in at_random) <= 6  # more come of 24 fair draws once in 1 500
        return
    assert findings[0].chance_level is not None
    assert_at_chance([value(finding) for finding in findings], findings[0].chance_level)


@pytest.mark.parametrize("question", ["prompt", "member"])
def test_the_position_tells_nothing_in_controls_either(question: TraceQuestion) -> None:
    found = [
        [value(control) for control in controls(spoken(question), asked(), ScoringOptions(seed))]
        for seed in range(JUDGED)
    ]
    for of_control in zip(*found, strict=True):
        assert_at_chance(of_control, 1 / PROMPTS if question == "prompt" else 0.5)


def test_answers_come_back_in_the_order_of_the_texts() -> None:
    class Reads(Positions):
        """Reads what the text says."""

        def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
            return torch.tensor([float(sum(own.counts or ())) for own in case.observations])

    lengths = GeneratedTexts(
        "prompt", tuple(text(1, 1 + number) for number in range(40)), tuple(range(1, 41)), (False,) * 40
    )
    assert value(judge(lengths, replace(asked(), attack=Reads(Config()).with_name("reads")), ScoringOptions())) == 1.0


def test_every_case_that_a_study_hands_out_is_in_an_order_of_its_own() -> None:
    orders: list[tuple[str, list[int]]] = []

    def noting(attack: TraceAttack[Any], case: TraceCase, generator: torch.Generator) -> Tensor:
        orders.append((case.question, [sum(own.counts or (len(own.output or ()),)) for own in case.observations]))
        return answer_here(attack, case, generator)

    class Numbered(TextGenerator):
        """Writes texts whose lengths number them."""

        def write(self, prompts: Any, purpose: str, given: Any = None) -> Any:
            return [text(1, 1 + number) for number in range(len(prompts))]

    plain = speaker()
    numbered = Numbered(plain.model, plain.decoder, plain.tokenizer, plain.limits)
    study(numbered, MATERIAL, [(own, asked()) for own in QUESTIONS], ScoringOptions(seed=1, answer=noting))
    assert [question for question, _ in orders] == [
        *["prompt"] * 3, *["member"] * 2, *["planted"] * 2, "bits", "bits"
    ]  # fmt: skip
    for _, order in orders:
        assert order != sorted(order)
    assert len({tuple(order) for _, order in orders}) == len(orders)


@pytest.mark.slow
def test_texts_are_written_in_another_order_than_that_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that grows slower would tell the place by the seconds, and so would rows that share a step."""

    class Slower:
        """A clock whose every interval is longer than the one before."""

        def __init__(self) -> None:
            self.calls = 0

        def perf_counter(self) -> float:
            self.calls += 1
            return float(self.calls**2)

    found = list[float]()
    material = StudyInputs(
        members=tuple((1, number) for number in range(16)), non_members=tuple((2, number) for number in range(16))
    )
    mean = registry.get("attack", "trace-mean")
    timing = TraceInquiry(mean.make(mean.config()).with_name("trace-mean"), "trace-mean", "timing")
    for seed in range(JUDGED):
        monkeypatch.setattr(loop, "time", Slower())
        speech = replace(speaker("greedy"), seed=seed).speech("member", material)
        found.append(value(judge(speech, timing, ScoringOptions(seed))))
    assert_at_chance(found, 0.5)


@pytest.mark.parametrize("target", get_args(Target))
def test_the_position_of_a_candidate_tells_nothing(cases: Cases, target: Target) -> None:
    is_member = cases()[target].is_member
    members, others = is_member.nonzero().flatten(), (~is_member).nonzero().flatten()
    auc = float((members[:, None] < others).double().mean())
    deviation = sqrt((len(is_member) + 1) / (12 * len(members) * len(others)))  # of Mann and Whitney's statistic
    assert abs(auc - 0.5) < 4 * deviation


class CallsOfDescribe(AttributeAttack[Config]):
    """Reads the value of an update off when it was described, as if those of each value came together."""

    calls = 0

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        self.calls += 1
        return torch.tensor([float(self.calls)])

    def read(self, known: Tensor, labels: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        return torch.eye(2)[(asked[:, 0] > asked.median()).long()]


def test_the_position_of_an_update_tells_nothing_of_its_attribute(scenario: Build) -> None:
    world = worlds.build(scenario(**{**SMALL, "attributes": {**SMALL["attributes"], "public": 2}}))
    parity, weights = world.data.dataset.attributes["parity"], world.models.first_weights
    sent = Update("gradient", {name: torch.zeros_like(weight) for name, weight in weights.items()}, {}, 1, 0.0)
    entries = [WireEntry(1, client, weights, sent) for client in range(40)]
    entries.sort(key=lambda own: attributes.value_of(world, own, parity) or 0)  # clients own values in order
    found = list[float]()
    for seed in range(JUDGED):
        changed = replace(world, scenario=world.scenario.model_copy(update={"seed": seed}))
        attack = InProcessRunner(CallsOfDescribe(Config()))
        described = attributes.describe_round(changed, "parity", entries, {"calls": attack}, 2)
        found.append(attributes.score("calls", "parity", attack, [described], changed).right.value)
    assert_at_chance(found, 0.5)


def test_the_position_of_a_canary_tells_nothing() -> None:
    scores = np.arange(400.0)
    included = [coins(400, seeding.generator(seed, "audit dp-sgd")) for seed in range(JUDGED)]
    assert_at_chance([float(count_right(own.numpy(), scores, 400)) / 400 for own in included], 0.5)
