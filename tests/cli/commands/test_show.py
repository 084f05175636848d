"""`fedsim show` gives all that is known of a method."""

import json
from pathlib import Path

import pytest

from fedsim.cli.commands._console import screen
from fedsim.scenario import load
from tests.cli.typed import Say


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_width", 400)  # set when it is made, which another test may have done


def test_show_gives_paper_settings_bounds_and_meaning(command: Say) -> None:
    code, told, _ = command("show", "dropout-inversion")
    assert code == 0
    for expected in ("2208.06163", "mask_weight", "0.0001", ">= 0", "weight l_m of the mask prior", "max_iterations"):
        assert expected in " ".join(told.split())  # the table cuts texts into lines


def test_a_default_that_names_methods_stands_as_in_a_scenario(command: Say) -> None:
    told = " ".join(command("show", "map")[1].split())
    assert '{"name": "likelihood"}' in told
    assert '[{"name": "total-variation", "weight": 0.01}]' in told


def test_show_says_what_an_attack_must_be_granted(command: Say) -> None:
    expected = "Needs the threat model to grant: dropout-rates (the dropout rates), masks (the dropout masks)\n"
    assert expected in command("show", "wiig")[1]
    for name in ("dlg", "soteria"):  # needs nothing, and is no attack
        assert "Needs the threat model" not in command("show", name)[1]


def test_show_and_list_know_other_names_and_papers_of_others(command: Say) -> None:
    code, told, wrong = command("show", "dia")
    assert code == 0, wrong
    assert "dropout-inversion (attack)" in told
    assert "Also called: dia\nPaper: a reproduction of arXiv 2208.06163\n" in told
    assert "Related paper, of other authors: 1906.08935" in command("show", "round-averaging")[1]
    listed = {own["name"]: own for own in json.loads(command("list", "attacks", "--json")[1])}
    assert listed["r-gap"]["aliases"] == ["rgap"]
    assert (listed["round-averaging"]["paper"], listed["round-averaging"]["related"]) == ("", "1906.08935")
    assert "(also: dia)" in command("list", "attacks")[1]


def test_show_and_list_say_what_a_method_is_to_its_paper(command: Say) -> None:
    shown = command("show", "instahide-regression")[1]
    assert "Paper: inspired by arXiv 2011.05315: exact attacks and known labels replace its clustering of enc" in shown
    assert "Paper:" not in command("show", "round-averaging")[1]
    listed = {entry["name"]: entry for entry in json.loads(command("list", "attacks", "--tier", "all", "--json")[1])}
    lira = listed["lira"]
    assert (lira["family"], lira["fidelity"], lira["deviates"]) == ("membership", "reproduction", "")
    assert (listed["instahide-regression"]["fidelity"], listed["adapter-certificate"]["fidelity"]) == ("inspired", "")


@pytest.mark.parametrize("name", ["dlg", "code-words"])
def test_what_it_prints_as_a_scenario_for_an_attack_is_one(name: str, command: Say, tmp_path: Path) -> None:
    told = command("show", name)[1]
    (tmp_path / "small.toml").write_text(told.split("A small scenario in which it applies:\n\n")[1])
    assert load(tmp_path / "small.toml").attacks[0].name == name
    assert "A small scenario" not in command("show", "gradient-noise")[1]
