import importlib.util
from pathlib import Path

import pytest

from fedsim.record.store import RunFolder
from fedsim.report import drawing
from fedsim.report.drawing import render_figure
from fedsim.report.writing import build


def beside(name):
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def records():
    """The module of synthetic runs beside this file."""
    return beside("records")


@pytest.fixture(scope="session")
def sweeps():
    """The module of synthetic sweeps beside this file."""
    return beside("sweeps")


@pytest.fixture(scope="session")
def page_of():
    """What a browser would make of a page."""
    return beside("page").Page


@pytest.fixture
def report(tmp_path, records, page_of):
    """Renders a record; what the report left in the folder must go when the run is written anew."""

    def render(record, arrays=None):
        return page_of(build(records.save(tmp_path, record, arrays)).read_text(encoding="utf-8"))

    yield render
    RunFolder(tmp_path).create(overwrite=True)  # whatever a report consists of belongs to the run
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def drawn():
    """Builds a report whose figures are drawn, whichever test asks for it first."""

    def draw(build_, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drawing, "render_figure", render_figure)
            return build_(folder)

    return draw


@pytest.fixture(scope="session")
def typical(tmp_path_factory, records, page_of, drawn):
    """A run with everything that most runs have: its record, its folder, its page."""
    record, arrays = records.with_arrays(records.typical())
    folder = records.save(tmp_path_factory.mktemp("run"), record, arrays)
    drawn(build, folder)
    return record, folder, page_of((folder / "report.html").read_text(encoding="utf-8"))
