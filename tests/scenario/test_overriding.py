"""What `--set` does where arms or a sweep set the same key."""

from pathlib import Path

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.scenario import Scenario, arms, load
from fedsim.scenario.combinations import expand_sweep

TEXT = """
title = "t"
[data]
name = "digits"
[model]
name = "mlp"
[arms]
"model.dropout" = [0.0, 0.5]
[arms.defense.none]
[arms.defense.noise]
defenses = [{ name = "gradient-noise" }]
"""
SWEEP = """
title = "t"
[model]
name = "mlp"
[sweep]
seeds = [1, 2]
runs = [{ "model.width" = 8 }]
[sweep.grid]
"model.dropout" = [0.0, 0.5]
"""


def read(tmp_path: Path, text: str, *overrides: str) -> Scenario:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return load(path, overrides)


@pytest.mark.parametrize("override", ["model.dropout=0.3", "arms.model.dropout=[0.3]", 'arms."model.dropout"=[0.3]'])
def test_a_value_replaces_those_of_its_axis(tmp_path: Path, override: str) -> None:
    found = arms(read(tmp_path, TEXT, override))
    assert [values for values, _ in found] == [
        {"model.dropout": 0.3, "defense": "none"},
        {"model.dropout": 0.3, "defense": "noise"},
    ]
    assert all(arm.model.settings["dropout"] == 0.3 for _, arm in found)


def test_the_last_of_several_values_counts(tmp_path: Path) -> None:
    scenario = read(tmp_path, TEXT, "model.dropout=0.1", "model.dropout=0.2")
    assert {arm.model.settings["dropout"] for _, arm in arms(scenario)} == {0.2}


def test_an_axis_that_is_new_needs_no_quotes(tmp_path: Path) -> None:
    scenario = read(tmp_path, TEXT, "arms.model.width=[8, 16]")
    assert scenario.arms["model.width"] == (8, 16)
    assert len(arms(scenario)) == 8


def test_a_value_of_a_named_arm_is_reached(tmp_path: Path) -> None:
    scenario = read(tmp_path, TEXT, "arms.defense.noise.defenses.0.scale=2.0")
    assert {len(arm.defenses) and arm.defenses[0].settings["scale"] for _, arm in arms(scenario)} == {0, 2.0}


@pytest.mark.parametrize(
    ("text", "override", "where"),
    [
        (TEXT, "defenses=[]", "arms.defense sets 'defenses' itself"),
        (TEXT, "defenses.0.scale=2.0", "arms.defense sets 'defenses' itself"),
        (TEXT, "model.dropout.x=1", "arms.model.dropout sets 'model.dropout' itself"),
        (SWEEP, "model.width=4", "sweep.runs sets 'model.width' itself"),
    ],
)
def test_a_value_that_an_arm_would_cover_is_refused(tmp_path: Path, text: str, override: str, where: str) -> None:
    with pytest.raises(ScenarioError, match=where):
        read(tmp_path, text, override)
    name = where.partition(".")[0]
    read(tmp_path, text, f"{name}={{}}")


def test_a_table_that_arms_only_refine_may_be_set(tmp_path: Path) -> None:
    found = arms(read(tmp_path, TEXT, 'model={name="mlp", width=8}'))
    assert {arm.model.settings["width"] for _, arm in found} == {8}
    assert {arm.model.settings["dropout"] for _, arm in found} == {0.0, 0.5}


def test_runs_of_a_sweep_get_the_value_and_the_seed(tmp_path: Path) -> None:
    runs = [values for values, _ in expand_sweep(read(tmp_path, SWEEP, "model.dropout=0.3", "seed=7"))]
    assert runs == [{"model.dropout": 0.3, "model.width": 8, "seed": 7}]


@pytest.mark.parametrize("table", ["[arms]\nmodel.dropout = [0.3]", "[sweep]\nseeds = [1]\ngrid.model.dropout = [0.3]"])
def test_an_axis_without_quotes_is_explained_in_our_own_words(tmp_path: Path, table: str) -> None:
    bare = TEXT.partition("[arms]")[0]
    with pytest.raises(ScenarioError, match=r"expected a list of values under a dotted key in quotes") as told:
        read(tmp_path, bare + table)
    assert "tuple[" not in str(told.value)
