"""The table of a generation: filled in, varied by arms, and every mistake named."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.questions.generation.settings import GenerationSettings
from fedsim.scenario import Scenario, arms
from tests.experiment.running import Build

ATTACK = {"name": "trace-forest"}


def table(**own: Any) -> dict[str, Any]:
    return {"generation": {"attacks": [ATTACK], **own}}


def asked(own: Scenario) -> GenerationSettings:
    """The table of a scenario that has one, as the question reads it."""
    return own.questions["generation"].make("question").config


def test_decoders_and_attacks_are_filled_in_and_may_be_named_alone(scenario: Build) -> None:
    own = asked(scenario(**table(decoder="sampled", attacks=[{**ATTACK, "mitigation": "trace-grouping"}])))
    assert own.decoder.settings == {"temperature": 1.0, "top_p": 1.0}
    (attack,) = own.attacks
    assert attack.settings == {"trees": 100}
    assert attack.mitigation.settings == {"steps": 4}
    assert attack.report_name == "trace-forest, counts, trace-grouping"
    assert asked(scenario(generation={})).decoder.name == "greedy"
    assert "generation" not in scenario().questions


def test_an_unmasker_writes_too(scenario: Build) -> None:
    own = asked(scenario(**table(decoder={"name": "threshold", "threshold": 0.8})))
    assert own.decoder.settings["threshold"] == 0.8
    with pytest.raises(ScenarioError, match=r"to the table \[generation\]"):
        scenario(components=[{"name": "threshold"}])


def test_arms_may_compare_decoders(scenario: Build) -> None:
    own = scenario(**table(), arms={"generation.decoder": [{"name": "greedy"}, {"name": "beam", "width": 2}]})
    found = [asked(arm).decoder for _, arm in arms(own)]
    assert [(one.name, one.settings.get("width")) for one in found] == [("greedy", None), ("beam", 2)]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"decoder": "greddy"}, r"generation.decoder.name: there is no component 'greddy'. Did you mean 'greedy'"),
        ({"decoder": "dp-sgd"}, r"generation.decoder.name: there is no component 'dp-sgd'"),
        ({"decoder": "adam"}, r"'adam' is a component for hook optimizer, expected a decoder"),
        ({"decoder": {"name": "beam", "widht": 2}}, r"generation.decoder.widht: there is no such key. .*'width'"),
        ({"attacks": [{"name": "trace-forrest"}]}, r"generation.attacks.0.name: .*Did you mean 'trace-forest'"),
        ({"attacks": [{**ATTACK, "mitigation": "greedy"}]}, r"hook decoder, expected a mitigation"),
        ({"attacks": [{**ATTACK, "view": "count"}]}, r"generation.attacks.0.view: input should be 'outputs', 'counts'"),
        ({"attacks": [{**ATTACK, "view": "activations"}]}, r"split inference, which a scenario does not run"),
        ({"attacks": [{**ATTACK, "view": "outputs", "mitigation": "trace-padding"}]}, r"a mitigation changes counts"),
        ({"attacks": [ATTACK, ATTACK]}, r"two are reported as 'trace-forest, counts'. Set 'label' in either"),
        ({"prompts": {"source": "file"}}, r"generation.prompts: source = 'file' and path go together"),
        ({"prompts": {"texts": ["a", "b"]}}, r"generation.prompts: source = 'texts' and texts go together"),
        ({"texts_per_prompt": 2}, r"generation.texts_per_prompt: input should be greater than or equal to 3, got 2"),
        ({"max_new_tokns": 2}, r"generation.max_new_tokns: there is no such key. Did you mean 'max_new_tokens'"),
    ],
)
def test_every_mistake_is_named(scenario: Build, own: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(**table(**own))


def test_a_decoder_among_the_components_is_sent_to_the_table(scenario: Build) -> None:
    with pytest.raises(ScenarioError, match=r"to the table \[generation\]"):
        scenario(components=[{"name": "greedy"}])


def test_a_file_of_prompts_is_named_by_its_path(scenario: Build, tmp_path: Path) -> None:
    own = asked(scenario(**table(prompts={"source": "file", "path": str(tmp_path / "prompts.txt")})))
    assert own.prompts.path == tmp_path / "prompts.txt"
