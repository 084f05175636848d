"""`fedsim export` writes the formats that it is asked for, and no other."""

import csv
import shutil
from pathlib import Path

from tests.cli.typed import Say


def test_the_formats_that_were_asked_for_are_written_and_named(command: Say, swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "s", tmp_path / "s")
    before = {path.name for path in (tmp_path / "s").iterdir()}
    code, told, _ = command("export", str(tmp_path / "s"), "--csv")
    assert code == 0
    assert told.replace("\n", "") == f"Wrote {tmp_path / 's' / 'table.csv'}"
    new = {path.name for path in (tmp_path / "s").iterdir()} - before
    assert "table.csv" in new
    assert not {"table.parquet", "results.duckdb"} & new
    with (tmp_path / "s" / "table.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 4  # settings, victims


def test_without_a_format_nothing_is_written(command: Say, swept: Path) -> None:
    before = sorted((swept / "s").iterdir())
    code, told, said = command("export", str(swept / "s"))
    assert (code, told) == (2, "")
    assert "add --csv, --parquet or --duckdb" in said
    assert sorted((swept / "s").iterdir()) == before


def test_a_table_of_the_page_is_written_as_asked(command: Say, swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "s", tmp_path / "s")
    folder = tmp_path / "s"
    code, told, _ = command("export", str(folder), "--latex", "--json", "--metric", "success", "--bold", "best")
    assert code == 0
    wrote = [f"Wrote {folder / name}" for name in ("table-settings.tex", "table-settings.json")]
    assert told.replace("\n", "") == "".join(wrote)
    assert "setting & attack success & seeds, victims" in (folder / "table-settings.tex").read_text()
    assert not list(folder.glob("table*.csv"))


def test_mistakes_name_the_option_and_the_nearest_name(command: Say, swept: Path) -> None:
    folder = str(swept / "s")
    for given, said in (
        (("--latex", "--table", "setings"), "Did you mean 'settings'?"),
        (("--latex", "--bold", "all"), "expected 'best'"),
        (("--csv", "--metric", "psnr"), "Add --latex, --markdown, --json or --bibtex"),
    ):
        code, told, complaint = command("export", folder, *given)
        assert (code, told) == (2, "")
        assert said in complaint.replace("\n", " ")


def test_bibtex_is_written_printed_and_never_over_a_file_of_the_user(command: Say, swept: Path, tmp_path: Path) -> None:
    folder, file = str(swept / "s"), tmp_path / "papers.bib"
    assert command("export", folder, "--bibtex", str(file))[0] == 0
    assert "eprint = {2003.14053}" in file.read_text()
    assert command("export", folder, "--bibtex", str(file))[0] == 0
    assert command("export", folder, "--bibtex", "-")[1] == file.read_text()
    file.write_text("@book{mine}")
    code, _, said = command("export", folder, "--bibtex", str(file))
    assert (code, file.read_text()) == (2, "@book{mine}")
    assert "Name another file" in said
