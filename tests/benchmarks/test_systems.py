"""The page of published systems: each is there, its arm runs it, and its figures are those of the scenario."""

import tomllib
from functools import partial
from pathlib import Path

import pytest

from benchmarks import _expected, _systems
from benchmarks._systems import System
from fedsim.core.errors import FedsimError
from fedsim.core.registry.index import entries_of
from fedsim.experiment.expectation import Expected, write_expected

ROOT = Path(__file__).parents[2]
SYSTEMS = _systems.systems()
# Published components that clients or decoders of many systems share, or that a system is compared with.
COMMON = {
    "adam", "attention-topk", "beam", "cls-topk", "dropout", "euler", "factor", "fedprox", "fixed", "heun",
    "label-smoothing", "lora", "remdm", "running-confidence", "sampled", "speculative", "threshold",
}  # fmt: skip
TABLES = {"devil": "phrases"}  # methods that a table of a scenario runs, without their name

SCENARIO = """
seed = 1
[generation]
decoder = { name = "greedy" }
[arms.decoder]
"aded" = { "generation.decoder" = { name = "aded" } }
"greedy" = {}
"""
FIGURES = """
figures = [
    { arm = "decoder aded", attack = "a | b", metric = "prompt_accuracy", value = 0.5, low = 0.25, high = 0.75 },
    { arm = "decoder aded", attack = "shuffled", metric = "prompt_accuracy", value = 0.125, tolerance = 0.1 },
    { arm = "decoder greedy", attack = "a | b", metric = "prompt_accuracy", value = 0.03, tolerance = 0.1 },
    { arm = "decoder aded", metric = "test_accuracy", value = 0.75, tolerance = 0.1 },
    { arm = "decoder greedy", metric = "test_accuracy", value = 0.25, tolerance = 0.1 },
]
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "one.toml").write_text(SCENARIO)
    write_expected(Expected.model_validate(tomllib.loads(FIGURES)), tmp_path / "one.toml")
    monkeypatch.setattr(_expected, "figure_cell", partial(_expected.figure_cell, folder=tmp_path))
    return tmp_path


def system(**fields: object) -> System:
    own = {"name": "ADED (draft)", "methods": ["aded"], "page": "components/aded.md#more"}
    own |= {"claim": "Fast.", "privacy": "Leaks."}
    arms = {"scenario": "one", "arm": "decoder aded", "baseline": "decoder greedy"}
    return System.model_validate({**own, **arms, **fields})


def test_thirty_three_systems_are_listed_once() -> None:
    assert len(SYSTEMS) == len({system.name for system in SYSTEMS}) == 33
    methods = [method for system in SYSTEMS for method in system.methods]
    assert len(methods) == len(set(methods))


def test_every_published_component_belongs_to_a_system_or_is_common() -> None:
    published = {name for name, entry in entries_of("component").items() if entry.paper}
    assert published - {method for system in SYSTEMS for method in system.methods} == COMMON & published


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_system_has_a_page_a_test_and_a_scenario_that_runs_each_method(system: System) -> None:
    assert (ROOT / "docs" / system.page.partition("#")[0]).is_file()
    assert any(code for entry in _systems.entries(system) for _, code in entry.paper_steps)
    assert bool(system.figures) is not bool(system.elsewhere)
    if system.figures:
        (first, *_) = _systems.entries(system)
        assert {TABLES.get(name, name) for name in first.names} & _systems.runs(system)


@pytest.mark.parametrize("method", [method for system in SYSTEMS for method in system.methods])
def test_some_scenario_runs_each_method(method: str) -> None:
    if method == "list-operations":  # `fedsim bench parallel` runs it
        return
    name = TABLES.get(method, method)
    texts = (file.read_text() for file in (ROOT / "scenarios").rglob("*.toml"))
    assert any(f'"{name}"' in text or f"\n{name} = " in text for text in texts)


def test_the_page_is_that_of_the_data() -> None:
    page = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    assert _systems.as_markdown("docs/systems.md") in page


def test_a_figure_stands_beside_that_of_the_arm_without_or_of_a_control(scenario: Path) -> None:
    figures = [
        {"metric": "test_accuracy"},
        {"metric": "prompt_accuracy", "attack": "a | b"},
        {"metric": "prompt_accuracy", "attack": "a | b", "substitute": "none"},
    ]
    rows = list(_systems._rows(system(figures=figures)))
    assert [row[2:] for row in rows] == [
        ["accuracy", "25 %", "75 %"],
        ["prompt told: a \\| b", "3 % ± 10", "50 % [25, 75]"],
        ["prompt told: a \\| b", "none", "50 % [25, 75]"],
    ]
    assert rows[0][:2] == ["[ADED (draft)](#aded-draft)", "`one`: *decoder aded* beside *decoder greedy*"]
    assert {tuple(row[:2]) for row in rows[1:]} == {("", "")}
    control = {"metric": "prompt_accuracy", "attack": "a | b", "control": "shuffled"}
    (row,) = _systems._rows(system(baseline="", figures=[control]))
    assert row[1] == "`one`: *decoder aded* beside *shuffled*"
    assert row[3:] == ["12.5 % ± 10", "50 % [25, 75]"]
    (row,) = _systems._rows(
        system(figures=[{"metric": "test_accuracy", "arm": "decoder greedy", "baseline": "decoder aded"}])
    )
    assert row[2:] == ["accuracy; *decoder greedy* beside *decoder aded*", "75 %", "25 %"]


def test_a_section_holds_claim_and_privacy(scenario: Path) -> None:
    section = _systems._section(system(figures=[{"metric": "test_accuracy"}]), "docs/systems.md")
    assert section.startswith("## ADED (draft)\n\n`aded` (variant of [2407.12021]")
    assert "; [page](components/aded.md#more). **Claim of the paper.** Fast. **For privacy.** Leaks." in section


def test_the_methods_of_an_arm_are_its_own_strings_and_those_of_the_base(scenario: Path) -> None:
    assert {"aded", "greedy"} <= _systems.runs(system(), scenario)
    assert "aded" not in _systems.runs(system(arm="decoder greedy"), scenario)


def test_wrong_data_are_named_with_the_nearest(scenario: Path) -> None:
    with pytest.raises(FedsimError, match="system 'ADED .draft.': no published method 'adet'.*'aded'"):
        _systems.entries(system(methods=["adet"]))
    with pytest.raises(FedsimError, match="expects no 'decoder aded: : test_accurac'.*decoder aded: : test_accuracy"):
        _expected.figure_cell("one", "decoder aded", "", "test_accurac")
    with pytest.raises(FedsimError, match="unknown scenario 'ones'"):
        _expected.figure_cell("ones", "decoder aded", "", "test_accuracy")
