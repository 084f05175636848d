"""Single values of results and scenarios on pages."""

import tomllib
from pathlib import Path

import pytest

from benchmarks import _expected, _values
from benchmarks._results import write
from benchmarks._rows import Row
from fedsim.core.errors import FedsimError
from fedsim.experiment.expectation import Expected, write_expected
from tests.benchmarks.toy_results import result

ROWS = [
    Row("exact", "LeNet, B = 1", 0.5, "share", 0.25, 0.751, 4, ">= 0.6"),
    Row("PSNR: median", "LeNet, B = 1", 71.23, "dB"),
]
FIGURES = """
measured = { date = "2026-12-02", commit = "def", processor = "another" }
figures = [{ arm = "plain", attack = "dager", metric = "success", value = 0.8, low = 0.6, high = 1, tolerance = 0.2 }]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    changed = {"sources": {"attacks/gone.py": "1"}, "date": "2026-12-03", "full": True}
    write(result(*ROWS).model_copy(update=changed), tmp_path)
    (tmp_path / "55_toy.toml").touch()
    write_expected(Expected.model_validate(tomllib.loads(FIGURES)), tmp_path / "55_toy.toml")
    monkeypatch.setattr(_expected, "SCENARIOS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("marker", "shown"),
    [
        ("value: toy: exact: LeNet, B = 1", "50 % [25, 75.1], n = 4"),
        ("value: toy: PSNR: median: LeNet, B = 1", "71.2 dB"),
        ("value: 55_toy: plain: dager: success", "80 % [60, 100]"),
        ("origin: 55_toy", "`fedsim run scenarios/55_toy.toml`, 2026-12-02, commit def, another."),
        (
            "origin: toy",
            "`python -m benchmarks toy --full --seconds 5`, 2026-12-03, commit abc, a processor. "
            "The code has changed since: attacks/gone.py.",
        ),
    ],
)
def test_a_marker_is_followed_by_the_measured_value_or_its_origin(folder: Path, marker: str, shown: str) -> None:
    text = f"| a <!-- {marker} -->old<!-- end --> | <!-- {marker} --><!-- end --> b |\n"
    page = _values.render(text, folder)
    assert page == f"| a <!-- {marker} -->{shown}<!-- end --> | <!-- {marker} -->{shown}<!-- end --> b |\n"
    assert _values.render(page, folder) == page


def test_an_unknown_row_names_the_nearest(folder: Path) -> None:
    with pytest.raises(FedsimError, match="results of 'toy' have no row 'exat: LeNet, B = 1'. Did you mean 'exact: Le"):
        _values.render("<!-- value: toy: exat: LeNet, B = 1 --><!-- end -->", folder)
