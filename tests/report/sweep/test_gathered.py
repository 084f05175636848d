"""Runs are gathered: a single one, broken ones, and none."""

import re

import pytest

from fedsim.core.errors import FedsimError
from fedsim.report.sweep import build
from tests.report.sweep.estimating import estimated


def test_an_empty_sweep_has_a_report_that_says_why(tmp_path, records, sweeps, page_of):
    folder = sweeps.save(tmp_path, records, [("none", 1, None), ("none", 2, None)])
    page = page_of(build(folder).read_text())
    assert "This sweep is empty" in page.text
    assert page.text.count("not finished yet") == 2
    assert "nothing can be said about privacy" in page.text


def test_broken_and_older_records_are_named_left_out_and_kept(tmp_path, records, sweeps, page_of):
    runs = sweeps.typical(records, seeds=(1,))
    whole = runs[1][2].model_dump_json(indent=1)
    half, older = whole[: len(whole) // 2], whole.replace('"schema_version": 3', '"schema_version": 2')
    folder = sweeps.save(tmp_path, records, [runs[0], ("half", 1, half), ("older", 1, older), ("junk", 1, "\0junk")])
    page = page_of(build(folder).read_text())
    assert "3 of 4 runs are missing" in page.text
    assert re.search(r"run defense half \S*record\.json cannot be read", page.text)
    assert re.search(r"run defense older \S*record\.json has schema version 2, expected 3", page.text)
    assert re.search(r"run defense junk \S*record\.json cannot be read", page.text)
    kept = [path.read_text() for path in sorted((folder / "runs").glob("*/record.json"))]
    assert kept[1:] == [half, older, "\0junk"]


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(FedsimError, match=r"holds no record\.json"):
        build(tmp_path)


def test_a_single_run_is_a_sweep_of_one(tmp_path, records, sweeps):
    records.save(tmp_path, sweeps.run(records, "none", 1, records.recovered(4)))
    sweep, (point,) = estimated(tmp_path)
    assert (sweep.planned_runs, point.name, point.strongest.rate.value) == (1, "undefended", 1.0)
