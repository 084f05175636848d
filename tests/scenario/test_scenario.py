import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import ScenarioError
from fedsim.scenario import Scenario, arms, load, parse

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"federation": {"clients": 0}}, r"federation.clients: .*greater than or equal to 1, got 0"),
        (
            {"federation": {"clients": 2}, "participation": {"cohort": 3}},
            r"cohort is 3, expected at most federation.clients = 2",
        ),
        ({"federation": {"local_steps": 2}}, r"fedsgd sends one gradient"),
        ({"federation": {"fraction": 2}}, r"federation.fraction: there is no such key"),
        ({"federation": {"optimizer": {"name": "dropout"}}}, r"expected an optimizer"),
        ({"components": [{"name": "adam"}]}, r"set federation.optimizer instead"),
        ({"components": [{"name": "greedy"}]}, r"'greedy' is a decoder, which takes a trained model, and no training"),
        ({"partition": {"scheme": "dirichlet", "alpha": 0}}, r"partition.alpha: .*greater than 0, got 0"),
        ({"threat": {"rounds": [4]}}, r"round 4 is after the last"),
        ({"threat": {"victims": 11}}, r"threat.victims is 11, expected at most 10"),
        ({"attacks": [{"name": "inverting-gradients"}] * 2}, r"two are reported as 'inverting-gradients'"),
        ({"data": "mnist"}, r"data: "),
        ({"data": {}}, r"data.name: field required"),
        ({"arms": {"model.dropuot": [0.1]}}, r"model.dropuot: there is no such key. Did you mean 'dropout'"),
    ],
)
def test_values_out_of_range_name_the_bound(table: dict[str, Any], expected: str) -> None:
    raw = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp"}, **table}
    with pytest.raises(ScenarioError, match=expected):
        parse(raw, "s.toml")


def test_the_data_default_to_real_digits_that_a_package_ships() -> None:
    assert parse({"title": "t", "model": {"name": "mlp"}}, "s").data.name == "mnist5k"


def test_arms_may_differ_in_the_method_itself() -> None:
    raw = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp", "dropout": 0.1}}
    scenario = parse({**raw, "arms": {"model.name": ["mlp", "vit-small"]}}, "s")
    assert [arm.model.settings["dropout"] for _, arm in arms(scenario)] == [0.1, 0.1]
    assert ["bias" in arm.model.settings for _, arm in arms(scenario)] == [True, False]


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse({"title": "t", "data": {"name": "digit"}, "model": {"name": "mpl"}}, "s.toml")
    assert len(str(caught.value).splitlines()) == 2


def test_overrides_are_toml_values_and_bare_words_are_text(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    scenario = load(path, ["attacks.0.max_iterations=500", "title=other words", "federation.clients=3", "seed=9"])
    assert scenario.attacks[0].settings["max_iterations"] == 500
    assert (scenario.title, scenario.federation.clients, scenario.seed) == ("other words", 3, 9)
    with pytest.raises(ScenarioError, match="nothing at 'attacks.7.max_iterations'"):
        load(path, ["attacks.7.max_iterations=1"])
    for no_key in ("attacks", "=3", "a b=3"):
        with pytest.raises(ScenarioError, match="expected key=value"):
            load(path, [no_key])
    assert load(path, ['arms."model.dropout"=[0.1]']).arms == {"model.dropout": (0.1,)}


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(ScenarioError, match=re.escape("Did you mean") + ".*s.toml"):
        load(tmp_path / "t.toml")


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=3), st.lists(st.integers(1, 64), min_size=1, max_size=3))
def test_arms_are_all_combinations(rates: list[float], widths: list[int]) -> None:
    raw = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp"}}
    scenario = parse({**raw, "arms": {"model.dropout": rates, "model.width": widths}}, "s")
    expected = [(rate, width) for rate in rates for width in widths]
    found = [(arm.model.settings["dropout"], arm.model.settings["width"]) for _, arm in arms(scenario)]
    assert found == expected
    assert all(not arm.arms for _, arm in arms(scenario))


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_scenarios_are_valid_and_say_what_to_expect(path: Path) -> None:
    scenario = load(path)
    assert scenario.minutes is not None
    head = path.read_text().partition("title")[0]
    assert "Purpose" in head
    assert "Expected" in head or scenario.expected.figures
