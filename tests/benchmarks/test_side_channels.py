"""The table of side channels has every decoder of the registry, and says why one does not run."""

from typing import Any

import pytest

from benchmarks import side_channels
from benchmarks.side_channels import SHORT, Arm, Setting, Texts, decoders, rows, scenario
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Decoder
from fedsim.core.types import Limits
from fedsim.questions.generation.side_channels import ScoringOptions, TraceInquiry
from fedsim.questions.generation.study import StudyInputs, TextGenerator
from fedsim.scenario import Scenario
from tests.components.decoder.lettered import Letters
from tests.components.generating import LEAKING, make, registered_toys, tiny_llama


@pytest.fixture(scope="module")
def setting() -> Setting:
    method = registry.get("attack", "trace-figures")
    trace_inquiry = TraceInquiry(
        method.make(method.config()).with_name("trace-figures"), "trace-figures, counts", "counts"
    )
    speaker = TextGenerator(tiny_llama(), make("greedy"), Letters(), Limits(max_new_tokens=4))
    material = StudyInputs(prompts=((LEAKING, 1), (1, 2), (2, 3)), texts_per_prompt=4)
    return Setting(speaker, material, [("bits", trace_inquiry)], ScoringOptions())


def test_every_decoder_of_the_registry_is_asked_later_ones_too() -> None:
    known = {name for name, method in registry.methods("component").items() if method.hook == "decoder"}
    assert {decoder.name for decoder in decoders()} == known
    with registered_toys():
        assert "toy-leaky" in {decoder.name for decoder in decoders()}


def test_every_decoder_answers_the_same_prompts_at_a_low_temperature() -> None:
    (speculative,) = decoders(["speculative"])
    assert speculative.config.temperature == 0.3
    asked = scenario(Texts(12, 4)).questions["generation"].make("question").config
    assert (asked.prompts.count, asked.texts_per_prompt) == (12, 4)
    assert [attack.name for attack in asked.attacks] == ["trace-forest", "trace-figures"]


def test_the_zero_control_stands_beside_what_leaks(setting: Setting) -> None:
    (pace, greedy, _), (_, leaky, text) = (
        list(rows(Arm(name, make(name), setting))) for name in ("greedy", "toy-leaky")
    )
    assert (pace.value, greedy.value, greedy.name) == (1.0, 0.0, "bits about the prompt: trace-figures, counts")
    assert "p 1.00" in greedy.note
    assert leaky.value > 0.3
    assert leaky.setting == "toy-leaky"
    assert "(positive-control)" in text.name


def test_pads_that_clients_trained_are_an_arm_of_their_own(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def prepared(own: Scenario) -> Setting:
        asked.append(tuple(one.name for one in own.components))
        return setting

    monkeypatch.setattr(side_channels, "prepare", prepared)
    side_channels._prepare_setting.cache_clear()
    (lexical,) = decoders(["sure-spans"])
    names = side_channels.arms_of("sure-spans")
    assert names == ["sure-spans", "sure-spans, trained"]
    arms = [side_channels.arm(name, lexical, SHORT) for name in (*names, names[0])]
    assert arms[1].name == "sure-spans, trained, temperature 0.3"
    assert asked == [(), ("pad-blocks",)]  # the third is the first again
    side_channels._prepare_setting.cache_clear()


def test_a_decoder_that_does_not_run_says_why(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FedsimError("it wants trained exits.")

    monkeypatch.setattr(side_channels, "study", fail)
    decoder: Decoder[Any, Any] = make("greedy")
    (row,) = rows(Arm("greedy", decoder, setting))
    assert (row.n, row.note) == (0, "does not run here: it wants trained exits.")
