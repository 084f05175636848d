"""Every notebook runs from its first cell to its last, and its assertions hold."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from fedsim import api
from tests.experiment.sweep.sweeping import Here

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_three() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize(
    "path",
    [
        # What two of them call is called by tests/test_api.py and tests/audit with less to do.
        pytest.param(
            path, id=path.stem, marks=pytest.mark.slow if path.stem in ("audit_your_model", "sweep_to_pareto") else ()
        )
        for path in NOTEBOOKS
    ],
)
def test_a_notebook_runs_and_holds_no_output(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(api, "ProcessExecutor", Here)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    assert any("assert " in code for code in codes)
    names: dict[str, object] = {"__name__": "notebook"}
    with plt.rc_context({"backend": "agg"}):
        for number, code in enumerate(codes):
            exec(compile(code, f"{path.name}, cell {number}", "exec"), names)
        plt.close("all")
