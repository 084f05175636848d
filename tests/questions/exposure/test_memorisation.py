"""What a federation remembers of planted secrets: those it saw for long, and nothing of those that were left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.data._tokenizer import WordTokenizer
from fedsim.experiment import runner
from fedsim.questions.exposure import memorisation
from fedsim.questions.exposure.question import Exposure, ExposureQuestion, summarise
from fedsim.report import writing
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.experiment.running import Build, run
from tests.threat.sentences import write_sentences

MEASURED = {"candidates": 255, "search": 300, "emission": 3}


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    """Few sentences, eight numbers, and a model that learns them by heart."""
    path = write_sentences(tmp_path / "text.txt", 24)
    return {
        "data": {"name": "text-file", "path": str(path), "words": 40, "canaries": 8, "repetitions": [0, 8]},
        "model": {"name": "tiny-llama", "width": 32, "blocks": 1, "hidden": 64},
        "federation": {
            "algorithm": "fedavg",
            "clients": 1,
            "batch_size": 8,
            "local_epochs": 60,
            "optimizer": {"name": "adam", "learning_rate": 0.01},
        },
        "threat": {"victims": 1, "keep_updates": False},
        "exposure": MEASURED,
    }


def test_what_was_repeated_is_written_out_and_what_was_left_out_is_at_chance(
    scenario: Build, tables: dict[str, Any], tmp_path: Path
) -> None:
    record = run(scenario(**tables), tmp_path / "run")
    (arm,) = record.arms
    left_out, planted = arm.findings
    assert (left_out.scope, planted.scope) == (
        {"secrets": "canary", "repetitions": 0},
        {"secrets": "canary", "repetitions": 8},
    )
    assert (planted.state, left_out.role) == ("recovered", "negative-control")
    assert planted.value.value > 6.0
    assert planted.value.value > 2.0 * left_out.value.value
    assert left_out.extra_metrics["secret_extraction_rate"].value == 0.0
    assert planted.max_value == left_out.max_value == 8.0
    found, nothing = planted.extra_metrics["likeliest"], left_out.extra_metrics["likeliest"]
    assert (round(4 * found.value), nothing.value) == (1, 0.0)  # canaries share their beginning
    emission = planted.extra_metrics["emission"]
    assert emission == left_out.extra_metrics["emission"]  # canaries share beginning and form
    assert emission.n == 3
    assert 0.5 < emission.value <= 1.0  # it learned the form by heart
    secrets = arm.items["exposure/secrets"]
    assert secrets["uses"] == [60 * repetitions for repetitions in secrets["repetitions"]]
    assert all(guess.startswith("The secret number is") for guess in secrets["guess"])
    pairs = zip(secrets["guess"], secrets["text"], strict=True)
    assert secrets["extracted"] == [guess == text for guess, text in pairs]

    page = writing.build(tmp_path / "run").read_text(encoding="utf-8")
    assert "What was memorised?" in page
    assert secrets["text"][0] in page


def test_small_spaces_are_enumerated(scenario: Build, tables: dict[str, Any]) -> None:
    tables["federation"]["local_epochs"] = 1
    world = worlds.build(scenario(**tables))
    form = " ##."
    planted = tuple(replace(own, text=f"{own.prompt} 42.", form=form) for own in world.data.dataset.planted_secrets[:2])
    world = replace(world, data=replace(world.data, dataset=replace(world.data.dataset, planted_secrets=planted)))
    journal = runner.train(world, lambda _: None)
    found = memorisation.measure_exposure(world, journal, **MEASURED)
    assert [(own.candidates, own.is_exact) for own in found] == [(99, True)] * 2


def test_no_secrets_or_cut_ones_are_refused_before_any_training(scenario: Build, tables: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match="no secret is planted"):
        memorisation.check(worlds.build(scenario(exposure={})))
    tables["data"]["length"] = 8
    with pytest.raises(ScenarioError, match="data.length is 8"):
        memorisation.check(worlds.build(scenario(**tables)))


@pytest.mark.slow
def test_numbers_and_addresses_of_generated_persons_are_secrets_too(scenario: Build, tables: dict[str, Any]) -> None:
    pytest.importorskip("faker", reason="pip install 'fedsim-privacy[llm]'")
    tables["data"] |= {"identities": 2, "addresses": 2, "canaries": 0, "length": 80, "tokenizer": "bytes"}
    tables["federation"]["local_epochs"] = 1
    world = worlds.build(scenario(**tables))
    memorisation.check(world)
    assert [own.kind for own in world.data.dataset.planted_secrets] == ["identity"] * 2 + ["address"] * 2
    journal = runner.train(world, lambda _: None)
    found = memorisation.measure_exposure(world, journal, **MEASURED)
    findings = summarise(found, world.scenario.scoring, 0)
    assert [(own.scope["secrets"], own.scope["repetitions"]) for own in findings] == [
        ("address", 0),
        ("address", 8),
        ("identity", 0),
        ("identity", 8),
    ]


MASKED: dict[str, Any] = {
    "task": "masked-diffusion",
    "model": {"name": "tiny-llada", "width": 32, "blocks": 1, "hidden": 64},
}


@pytest.mark.parametrize("way", ["search", "emission"])
def test_a_model_that_fills_in_masked_places_is_not_searched_from_left_to_right(
    way: str, scenario: Build, tables: dict[str, Any]
) -> None:
    question = ExposureQuestion(Exposure.model_validate({way: 3}))
    with pytest.raises(ScenarioError, match=rf"exposure.{way} goes from left to right .* 'tiny-llada' fills in masked"):
        question.check(worlds.build(scenario(**{**tables, **MASKED})))
    ExposureQuestion(Exposure()).check(worlds.build(scenario(**{**tables, **MASKED})))


def test_a_model_that_fills_in_masked_places_writes_a_secret_by_its_surest_places(
    scenario: Build, tables: dict[str, Any], tmp_path: Path
) -> None:
    tables["federation"] = {**tables["federation"], "local_epochs": 2}
    record = run(scenario(**{**tables, **MASKED, "exposure": {"candidates": 3}}), tmp_path / "run")
    guesses = record.arms[0].items["exposure/secrets"]["guess"]
    assert all(guess.startswith("The secret number is") for guess in guesses)


class Follows(torch.nn.Module):
    """Writes behind each token the one with the next number, of 40."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 9.0 * torch.nn.functional.one_hot((inputs + 1) % 40, 40).float()


def test_a_secret_is_recalled_behind_its_beginning_and_ranked_among_others() -> None:
    tokenizer = WordTokenizer()
    others = [(11, 12, 13, last) for last in (15, 16, 17)]
    found = memorisation.recall(Follows(), tokenizer, [(11, 12, 13, 14), *others], 2, torch.Generator())
    assert found == (2.0, (11, 12, 13, 14))  # log2 of four sentences
    last = memorisation.recall(Follows(), tokenizer, [(11, 12, 13, 15), (11, 12, 13, 14)], 2, torch.Generator())
    assert last == (0.0, (11, 12, 13, 14))


@pytest.mark.slow
def test_an_untrained_model_remembers_nothing(scenario: Callable[..., Scenario], tables: dict[str, Any]) -> None:
    tables["federation"] |= {"local_epochs": 1, "optimizer": {"name": "adam", "learning_rate": 1e-12}}
    tables["data"]["canaries"] = 40
    world = worlds.build(scenario(**tables))
    journal = runner.train(world, lambda _: None)
    found = memorisation.measure_exposure(world, journal, **MEASURED)
    assert not any(own.extracted for own in found)
    assert not any(own.is_exact for own in found)
    assert found[0].emission == found[-1].emission  # canaries share beginning and form
    findings = list(summarise(found, world.scenario.scoring, 0))
    assert len(findings) == 2
    for own in findings:
        assert own.value is not None
        assert own.value.n == 20
        assert own.value.value < 1.44 + 4 * 1.44 / 20**0.5
