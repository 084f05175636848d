"""Bindings: states that hold a pair of values give the wanted one back, and states without meaning do not."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import ScenarioError
from fedsim.questions import binding as asking
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.binding import Binding, BindingQuestion
from fedsim.record import Finding
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.questions.texts import TEXTS, evidence_of

SMALL = {"dimension": 512, "width": 64, "epochs": 30}


def ask(evidence: Evidence) -> list[Finding]:
    asked = {"known_attribute": "topic", "target_attribute": "name"}
    config = Binding.model_validate({**asked, "means": 1, "probe": SMALL})
    return list(BindingQuestion(config).run(evidence, QuestionContext()))


def plant(monkeypatch: pytest.MonkeyPatch, evidence: Evidence, *, is_meant: bool) -> None:
    """Let states be a random vector of the pair of values that a text has, or of the text alone."""
    dataset, source = evidence.world.data.dataset, torch.Generator().manual_seed(0)
    topic, name = dataset.attributes["topic"], dataset.attributes["name"]
    pairs = torch.randn(2, 8, 32, generator=source)
    held = {
        tuple(text): pairs[topic_number, name_number] if is_meant else torch.randn(32, generator=source)
        for inputs, topics, names in (
            (dataset.train.inputs, topic.train, name.train),
            (dataset.test.inputs, topic.test, name.test),
        )
        for text, topic_number, name_number in zip(inputs.tolist(), topics, names, strict=True)
    }

    def states(_model: nn.Module, inputs: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        of_texts = torch.stack([held[tuple(text)] for text in inputs.tolist()])
        yield of_texts[None, :, None].expand(len(layers), -1, inputs.shape[1], -1)

    monkeypatch.setattr(asking, "layer_states", states)


@pytest.fixture(scope="module")
def evidence(scenario: Build) -> Evidence:
    return evidence_of(scenario(**TEXTS))


@pytest.mark.paper_step("hyperdimensional-probe", "extraction from a model's states")
def test_the_value_that_is_bound_to_the_known_one_is_extracted(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, evidence, is_meant=True)
    read, control = ask(evidence)
    assert (read.label, read.role, read.state) == ("name given topic", "attack", "recovered")
    assert read.value.value > 0.9  # equal states have equal codes; a pair that no public text has is all that fails
    assert (control.role, control.state) == ("negative-control", "withstood")


@pytest.mark.slow
def test_states_that_hold_no_value_give_none_back(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, evidence, is_meant=False)
    read, _control = ask(evidence)
    assert read.state == "withstood"
    assert read.chance_level == pytest.approx(1 / 8)


@pytest.mark.slow
def test_a_real_model_is_read_in_its_upper_half(evidence: Evidence) -> None:
    read, control = ask(evidence)
    assert read.value.n == control.value.n == 32  # two texts of each of eight clients in two rounds
    assert read.scope == {"public": len(evidence.world.data.dataset.test)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_attribute": "nam"}, r"binding.target_attribute: data 'named-news' has no attribute 'nam'.*'name'"),
        ({"target_attribute": "topic"}, "'topic' is known already"),
        ({"means": 2}, "binding.means: 2, expected at most 1"),
    ],
)
def test_what_has_no_answer_is_refused_before_training(scenario: Build, settings: dict[str, Any], message: str) -> None:
    config = Binding.model_validate({"known_attribute": "topic", "target_attribute": "name", "means": 1, **settings})
    with pytest.raises(ScenarioError, match=message):
        BindingQuestion(config).check(worlds.build(scenario(**TEXTS)))
