"""Experiments are read from files, run cell by cell, go on where they were killed, and keep bounds or exit with 1."""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks import _results, _sources
from benchmarks._experiments import FOLDER, Budget, Cells, Experiment, experiments
from benchmarks._rows import Row
from benchmarks._sources import digest

_FILE = """'''Two cells of nothing.

More.
'''

@experiment("two-cells", minutes=0.5, page="audit", seconds=3)
def cells(budget): ...


def helper(): ...
"""


def test_every_file_holds_experiments_and_every_page_is_there() -> None:
    known = experiments()
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert {entry.module.partition(".")[2] for entry in known.values()} == files
    missing = [entry.name for entry in known.values() if not (FOLDER.parent / "docs" / f"{entry.page}.md").exists()]
    assert missing == []
    assert all(entry.minutes > 0 and entry.summary.endswith((".", "?")) for entry in known.values())


def test_a_declaration_is_read_without_importing_its_file(tmp_path: Path) -> None:
    (tmp_path / "two_cells.py").write_text(_FILE)
    (tmp_path / "_helper.py").write_text(_FILE)
    (entry,) = experiments(tmp_path).values()
    assert entry == Experiment("two-cells", 0.5, "audit", 3, "benchmarks.two_cells", "Two cells of nothing.")


class Toy(Experiment):
    """An experiment of two cells, of which the second may be interrupted, and what was measured."""

    measured: list[str]
    is_killed: bool
    bound: str

    def cells(self, budget: Budget) -> Cells:
        def first() -> Iterator[Row]:
            self.measured.append("first")
            yield Row("figure", "first", 1.0, "x", 0.5, 1.5, 4, self.bound)

        def second() -> Iterator[Row]:
            yield Row("figure", "second", 2.0, "x")
            if self.is_killed:
                raise KeyboardInterrupt
            self.measured.append("second")

        return {"first": first, "second": second}


@pytest.fixture(autouse=True)
def _unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook cannot be removed: it would slow every later test of this process."""
    monkeypatch.setattr(sys, "addaudithook", lambda _hook: None)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Toy:
    entry = Toy("toy", 1, "audit", None, "benchmarks.toy", "Toy.")
    entry.measured, entry.is_killed, entry.bound = [], False, "<= 1"
    monkeypatch.setattr(runner, "find", lambda _name: entry)
    monkeypatch.setattr(_results, "WAITING", tmp_path / "waiting")
    monkeypatch.setattr(_results, "ROOT", tmp_path)
    monkeypatch.setattr(_sources, "ROOT", tmp_path)
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "toy.py").write_text("strength = 1")
    monkeypatch.setattr(_sources.LoadedFiles, "digests", lambda _loaded: {"attacks/toy.py": digest("strength = 1")})
    monkeypatch.setattr(_results, "RESULTS", tmp_path / "results")
    return entry


def test_a_run_that_was_killed_goes_on_with_the_cell_that_it_was_at(toy: Toy, tmp_path: Path) -> None:
    toy.is_killed = True
    with pytest.raises(KeyboardInterrupt):
        runner.main(["toy"])
    waiting = tmp_path / "waiting" / "toy.jsonl"
    waiting.write_text(waiting.read_text() + '{"sources": {}, "cell": "sec')
    assert not (tmp_path / "results").exists()
    toy.is_killed = False
    assert runner.main(["toy"]) == 0
    assert toy.measured == ["first", "second"]
    result = _results.read("toy", tmp_path / "results")
    assert [row.setting for row in result.rows] == ["first", "second"]
    assert (result.sources, result.full, result.seconds) == ({"attacks/toy.py": digest("strength = 1")}, False, None)
    assert result.versions == {package: version(package) for package in ("torch", "numpy", "flwr")}


def test_cells_of_other_code_or_another_budget_are_measured_again(toy: Toy, tmp_path: Path) -> None:
    runner.main(["toy", "--cells", "first"])
    runner.main(["toy", "--cells", "first"])
    assert toy.measured == ["first"]
    runner.main(["toy", "--cells", "first", "--full"])
    (tmp_path / "attacks" / "toy.py").write_text("strength = 2")
    runner.main(["toy", "--cells", "first"])
    assert toy.measured == ["first"] * 3


def test_a_part_is_shown_and_written_only_once_all_are_there(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(["toy", "--cells", "second", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["cells"]) == ["second"]
    assert not (tmp_path / "results").exists()
    runner.main(["toy", "--cells", "first"])
    assert list(_results.read("toy", tmp_path / "results").cells) == ["first", "second"]


def test_a_bound_that_is_not_kept_exits_with_1_and_is_named(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.bound = "> 1"
    assert runner.main(["toy"]) == 1
    assert "Not kept: figure, first: 1 x, goal > 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit-seed"], "no experiment is called 'audit-seed'. Did you mean 'audit-seeds'?"),
        ([], "name an experiment"),
        (["audit-seeds", "--seconds", "3"], "--seconds: 'audit-seeds' bounds no attack"),
        (["unlearning", "--cells", "no such"], "no cell's name contains 'no such'. Cells: forgotten digits"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_exits_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_check_measures_quick_results_again_and_exits_with_1_where_a_figure_moved(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runner.main(["toy"])
    before = _results.read("toy", tmp_path / "results")
    monkeypatch.setattr(_results, "results", lambda: {"toy": before})
    assert runner.main(["--check"]) == 0
    assert "toy: as before" in capsys.readouterr().out
    row = before.cells["first"][0]
    moved = before.model_copy(update={"cells": {**before.cells, "first": [row._replace(low=2.0, value=2.5, high=3.0)]}})
    monkeypatch.setattr(_results, "results", lambda: {"toy": moved, "slow": before.model_copy(update={"minutes": 9.0})})
    assert runner.main(["--check"]) == 1
    assert "first, first, figure: 2.5 [2, 3] x before, 1 [0.5, 1.5] x now" in capsys.readouterr().out
    assert runner.main(["toy", "--check"]) == 1
    assert runner.main(["tyo", "--check"]) == 2
    assert "there is no result of 'tyo'. Did you mean 'toy'?" in capsys.readouterr().err


@pytest.mark.parametrize("changed", [[], ["attacks/one.py"]])
def test_stale_results_are_named_and_end_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: list[str]
) -> None:
    monkeypatch.setattr(_sources, "changed_files", lambda _sources: changed)
    assert runner.main(["--stale"]) == (1 if changed else 0)
    assert ("since then changed: attacks/one.py" in capsys.readouterr().out) == bool(changed)
