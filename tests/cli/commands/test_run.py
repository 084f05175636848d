"""`fedsim run`, as a person uses it: in a process of its own."""

import json
from pathlib import Path

import pytest

from fedsim.cli.commands._console import duration_suffix
from tests.cli.typed import Say, fedsim


def test_a_run_ends_with_a_table_and_the_path_of_its_report(folder: Path) -> None:
    done = fedsim("run", "s.toml", "--set", "attacks.0.max_iterations=3", "--seed", "5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "It does not see the dropout masks." in done.stdout
    assert "Report: results/s/report.html" in done.stdout
    record = json.loads((folder / "results" / "s" / "record.json").read_text())
    assert record["plan"]["seed"] == 5
    assert record["plan"]["attacks"][0]["max_iterations"] == 3
    assert record["environment"]["command"].startswith("fedsim run s.toml --set attacks.0.max_iterations=3")
    page = (folder / "results" / "s" / "report.html").read_text()
    assert "small &lt;b&gt;run&lt;/b&gt;" in page
    assert "<b>run</b>" not in page


def test_an_existing_run_is_kept_and_can_be_replaced_or_resumed(here: Path, folder: Path, command: Say) -> None:
    assert command("run", "s.toml", "--out", "o")[0] == 0
    before = (folder / "o" / "record.json").read_bytes()
    code, _, told = command("run", "s.toml", "--out", "o")
    assert code == 2
    assert "--overwrite" in told
    assert (folder / "o" / "record.json").read_bytes() == before
    code, said, _ = command("run", "s.toml", "--out", "o", "--resume")
    assert code == 0
    assert "Continues with the report, since every arm is complete." in said
    assert command("run", "s.toml", "--out", "o", "--overwrite")[0] == 0


def test_a_run_that_is_resumed_says_which_arm_begins_anew(here: Path, folder: Path, command: Say) -> None:
    assert command("run", "s.toml")[0] == 0
    record = json.loads((folder / "results" / "s" / "record.json").read_text())
    (arm,) = record["arms"]
    left = record | {"status": "interrupted", "arms": [arm | {"complete": False}]}
    (folder / "results" / "s" / "record.json").write_text(json.dumps(left))
    code, said, _ = command("run", "s.toml", "--resume")
    assert code == 0
    assert "Continues with arm 1 of 1, from round 1 on." in said
    assert said.index("Continues with") < said.index("round 1 of")


@pytest.mark.parametrize(
    ("minutes", "told"), [(None, ""), (1, " (about 1 minute on two cores)"), (2.5, " (about 2.5 minutes on two cores)")]
)
def test_the_title_says_how_long_it_takes(minutes: float | None, told: str) -> None:
    assert duration_suffix(minutes) == told


def test_a_scenario_of_this_folder_with_the_name_of_a_shipped_scenario_is_named(command: Say, here: Path) -> None:
    (here / "scenarios").mkdir()
    (here / "scenarios" / "00_quickstart.toml").write_text('titel = "mine"')
    assert "Scenario: scenarios/00_quickstart.toml of this folder" in command("run", "quickstart")[2]
    assert "of this folder" not in command("run", "scenarios/00_quickstart.toml")[2]
    (here / "scenarios" / "99_mine.toml").write_text('titel = "mine"')
    assert "of this folder" not in command("run", "mine")[2]
