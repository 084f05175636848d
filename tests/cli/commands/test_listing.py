"""`fedsim list` is complete, and imports no optional package."""

import json
import os
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli.commands._console import screen
from fedsim.cli.doctor import examine
from tests.cli.typed import ROOT, Say


def test_listing_is_complete_and_imports_no_optional_package(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['fedsim', 'list', '--tier', 'all', '--json']\n"
        "from fedsim.cli import main\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'mlxtend', 'sklearn', 'torchvision', 'flwr', 'matplotlib', 'opacus', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stderr.strip().endswith("[]")
    entries = json.loads(done.stdout)
    assert {entry["group"] for entry in entries} == {
        "attacks", "distances", "priors", "attentions", "defenses", "components", "aggregators", "questions",
        "metrics", "tasks", "models", "data", "scenarios",
    }  # fmt: skip
    assert {"dropout-inversion", "wiig", "inverting-gradients", "krum", "mnist5k", "vit-small"} <= {
        e["name"] for e in entries
    }


NARROW = 80


@pytest.mark.parametrize("group", [(), ("attacks",), ("metrics",), ("scenarios",)])
def test_a_list_keeps_within_a_narrow_screen(command: Say, monkeypatch: pytest.MonkeyPatch, group: tuple[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(NARROW))
    code, told, _ = command("list", *group)
    assert code == 0
    assert max(len(line.rstrip()) for line in told.splitlines()) <= NARROW


def test_the_list_of_all_groups_names_by_family_and_is_short(command: Say) -> None:
    told = command("list")[1]
    listed = json.loads(command("list", "--json")[1])
    assert len(told.splitlines()) < len(listed)
    assert "attacks (" in told
    assert "closed_form" in told
    assert not [entry["name"] for entry in listed if entry["name"] not in told]


def test_families_are_headings_of_a_group(command: Say) -> None:
    lines = [line.rstrip() for line in command("list", "defenses")[1].splitlines()]
    assert lines[lines.index("norm") + 1].startswith("  clipping")


def test_the_list_shows_core_methods_and_counts_the_others(command: Say) -> None:
    def names(*options: str) -> set[str]:
        return {entry["name"] for entry in json.loads(command("list", "attacks", *options, "--json")[1])}

    everything = names("--tier", "all")
    tiers = [names(), names("--tier", "baseline"), names("--tier", "research")]
    assert set.union(*tiers) == everything
    assert sum(map(len, tiers)) == len(everything)
    assert ("dropout-inversion" in tiers[0], "dlg" in tiers[1], "own-statistics" in tiers[2]) == (True, True, True)
    told = command("list", "attacks")[1]
    assert f"{len(tiers[1])} baseline and {len(tiers[2])} research: fedsim list attacks --tier all" in told
    assert "wiig" not in told
    assert f"attacks ({len(tiers[0])} of {len(everything)})" in command("list")[1]
    assert "--tier all" not in command("list", "metrics")[1]
    assert "--tier is 'bass', expected core, baseline, research, all" in command("list", "--tier", "bass")[2]


def test_a_list_longer_than_the_screen_is_paged(command: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    paged: list[str] = []
    monkeypatch.setattr(pydoc, "pager", paged.append)
    monkeypatch.setattr(screen, "_force_terminal", True)
    monkeypatch.setattr(screen, "_height", 30)
    command("list", "tasks")
    assert not paged
    command("list", "attacks")
    assert "wiig" not in paged[0]
    assert "map-estimate" in paged[0]


def test_shipped_scenarios_are_listed_anywhere_and_a_folders_own_come_first(command: Say, here: Path) -> None:
    (here / "scenarios").mkdir()
    (here / "scenarios" / "00_quickstart.toml").write_text('title = "mine"')
    listed = {own["name"]: own["summary"] for own in json.loads(command("list", "scenarios", "--json")[1])}
    assert listed["00_quickstart"] == "mine"
    assert listed["20_federation_failures"] == "A federation whose clients drop out, come late and crash"


@pytest.mark.slow
def test_the_doctor_never_breaks_a_command_into_pieces(command: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = command("doctor")[1].splitlines()
    advice = [own.advice for own in examine() if own.advice]
    assert advice
    assert all(f"         {own}" in lines for own in advice)
