"""Scenario files: defaults, overrides, and mistakes that name file, key and the nearest name."""

import re
from pathlib import Path

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.scenario import Scenario, load, parse

GOOD = """
title = "t"
[data]
name = "digits"
[model]
name = "mlp"
[[attacks]]
name = "wiig"
also_knows = ["masks"]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


def test_every_default_is_filled_in_and_survives_a_round_trip(tmp_path: Path) -> None:
    scenario = load(write(tmp_path, GOOD))
    dumped = scenario.model_dump(mode="json")
    assert dumped["model"]["width"] == 512
    assert dumped["attacks"][0]["max_iterations"] == 20_000
    assert dumped["federation"]["optimizer"]["learning_rate"] == 0.1
    assert parse(dumped, "again") == scenario
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario


def test_an_alias_gives_the_same_scenario_as_the_name(tmp_path: Path) -> None:
    named = GOOD.replace('"wiig"', '"dropout-inversion"')
    assert load(write(tmp_path, named.replace("dropout-inversion", "dia"))) == load(write(tmp_path, named))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("title", "titel"), r"s.toml: titel: there is no such key. Did you mean 'title'"),
        (('name = "mlp"', 'name = "mpl"'), r"s.toml: model.name: there is no model 'mpl'. Did you mean 'mlp'"),
        (
            ('name = "mlp"', 'name = "mlp"\nwidht = 3'),
            r"s.toml: model.widht: there is no such key. Did you mean 'width'",
        ),
        (('name = "mlp"', 'name = "mlp"\ndropout = 1.0'), r"s.toml: model.dropout: .*less than 1, got 1.0"),
        (('["masks"]', "[]"), r"s.toml: attacks.0.name: 'wiig' needs masks, .* also_knows = \['masks'\]"),
        (('["masks"]', '["mask"]'), r"s.toml: attacks.0.also_knows.0: .*'masks'.*got 'mask'"),
        (('title = "t"', "title = t"), r"is not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_nearest_name(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    with pytest.raises(ScenarioError, match=expected):
        load(write(tmp_path, GOOD.replace(*change)))


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse({"title": "t", "data": {"name": "digit"}, "model": {"name": "mpl"}}, "s.toml")
    assert len(str(caught.value).splitlines()) == 2


def test_overrides_are_toml_values_and_bare_words_are_text(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    scenario = load(path, ["attacks.0.max_iterations=500", "title=other words", "federation.clients=3", "seed=9"])
    assert scenario.attacks[0].settings["max_iterations"] == 500
    assert (scenario.title, scenario.federation.clients, scenario.seed) == ("other words", 3, 9)
    with pytest.raises(ScenarioError, match="key 'attacks.7.max_iterations' is not in the scenario"):
        load(path, ["attacks.7.max_iterations=1"])
    for no_key in ("attacks", "=3", "a b=3"):
        with pytest.raises(ScenarioError, match="expected key=value"):
            load(path, [no_key])
    assert load(path, ['arms."model.dropout"=[0.1]']).arms == {"model.dropout": (0.1,)}


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(ScenarioError, match=re.escape("Did you mean") + ".*s.toml"):
        load(tmp_path / "t.toml")


def test_a_device_is_refused_where_it_is_absent_and_auto_becomes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = write(tmp_path, GOOD)
    assert load(path).device == load(path, ["device=auto"]).device == "cpu"
    with pytest.raises(ScenarioError) as found:
        load(path, ["device=cuda"])
    assert str(found.value) == (
        f"{path}: device: 'cuda' is not available: PyTorch finds no CUDA device on this "
        "machine. Set device = 'cpu', or 'auto', which uses a GPU if available."
    )
    with pytest.raises(ScenarioError, match="device: input should be 'auto', 'cpu' or 'cuda', got 'gpu'"):
        load(path, ["device=gpu"])
    with pytest.raises(ScenarioError, match="'cuda' is not available"):
        load(path, ["arms.device=['cpu','cuda']"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load(path, ["device=auto"]).device == "cuda"
