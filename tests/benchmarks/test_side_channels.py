"""The table of side channels has every decoder of the registry, and says why one does not run."""

from typing import Any

import pytest

from benchmarks import side_channels
from benchmarks.side_channels import Arm, Setting, arms, as_page, as_protocol, as_table, decoders, lines, scenario
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Decoder
from fedsim.core.types import Limits
from fedsim.scenario import Scenario
from fedsim.threat.side_channels import Judging, TraceInquiry
from fedsim.threat.trace_study import Material, Speaker
from tests.components.decoder.lettered import Letters
from tests.components.generating import LEAKING, make, registered_toys, tiny_llama


@pytest.fixture(scope="module")
def setting() -> Setting:
    method = registry.get("trace", "trace-figures")
    trace_inquiry = TraceInquiry(method.make(method.config()).named("trace-figures"), "trace-figures, counts", "counts")
    speaker = Speaker(tiny_llama(), make("greedy"), Letters(), Limits(max_new_tokens=4))
    material = Material(prompts=((LEAKING, 1), (1, 2), (2, 3)), repeats=4)
    return Setting(speaker, material, [("bits", trace_inquiry)], Judging())


def test_every_decoder_of_the_registry_is_asked_later_ones_too() -> None:
    known = {name for name, method in registry.methods("component").items() if method.hook == "decoder"}
    assert {decoder.name for decoder in decoders([], [])} == known
    with registered_toys():
        assert "toy-leaky" in {decoder.name for decoder in decoders([], [])}


def test_settings_are_a_low_temperature_and_what_is_asked() -> None:
    (own,) = decoders(["speculative"], ["speculative.length=7", "greedy.length=1"])
    assert (own.config.temperature, own.config.length) == (0.3, 7)
    (own,) = decoders(["speculative"], [], 1.0)
    assert own.config.temperature == 1.0


def test_the_protocol_asks_about_prompts_alone_and_more_often() -> None:
    asked = scenario(full=False, protocol=True).questions["generation"].make("question").config
    assert (asked.prompts.count, asked.repeats) == (50, 30)
    assert {(attack.name, attack.view) for attack in asked.attacks} == {
        (name, view) for name in ("trace-forest", "trace-figures") for view in ("counts", "work")
    }


def test_the_zero_control_stands_beside_what_leaks(setting: Setting) -> None:
    rows = [row for name in ("greedy", "toy-leaky") for row in lines(Arm(name, "", make(name), setting))]
    greedy, _, leaky, text = rows
    assert (greedy.value, greedy.p, greedy.tokens_a_step) == (0.0, 1.0, 1.0)
    assert leaky.value is not None
    assert leaky.value > 0.3
    assert text.role == "must succeed"
    assert as_protocol(rows).splitlines()[-1].startswith("| toy-leaky |  | ")
    assert as_protocol(rows).count("|\n") == 3
    table = as_table(rows)
    assert "## How many bits about the prompt?" in table
    assert "| toy-leaky | trace-figures, counts | counts | bits |" in table
    page = as_page(rows, scenario(full=False), " --page")
    assert page.startswith("# What a decoder's trace gives away\n\n`python -m benchmarks.side_channels --page` wrote")
    assert table in page


def test_pads_that_clients_trained_are_an_arm_of_their_own(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def prepared(own: Scenario) -> Setting:
        asked.append(tuple(one.name for one in own.components))
        return setting

    monkeypatch.setattr(side_channels, "prepare", prepared)
    found = list(arms(False, True, decoders(["greedy", "lexical-unit"], [])))
    assert [own.name for own in found] == ["greedy", "lexical-unit", "lexical-unit, trained"]
    assert found[-1].settings == "temperature 0.3; clients: name pad-blocks, sure 0.5"
    assert asked == [(), ("pad-blocks",)]
    assert found[-1].speaker.decoder.name == "lexical-unit"


def test_a_decoder_that_does_not_run_says_why(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FedsimError("it wants trained exits.")

    monkeypatch.setattr(side_channels, "study", fail)
    decoder: Decoder[Any, Any] = make("greedy")
    (row,) = lines(Arm("greedy", "", decoder, setting))
    assert row.why == "it wants trained exits."
    assert "| greedy |  | does not run here: it wants trained exits. |" in as_table([row])
