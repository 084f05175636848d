"""Pictures as files and as parts of a page."""

import base64

import pytest

from fedsim.core import registry
from fedsim.report.drawing import SIZE, apply_style, blank, canvas, picture, utility_axis

pytestmark = pytest.mark.draws


@apply_style()
def drawn(heights: list[float]):
    figure, axes = canvas()
    axes.plot(heights)
    rows = ((str(x), y) for x, y in enumerate(heights))
    return picture("heights", figure, arm="a", alt="heights", columns=("x", "y"), rows=rows)


def test_the_same_data_give_the_same_bytes_and_stand_beside_the_picture() -> None:
    one, other = drawn([1.0, 2.0]), drawn([1.0, 2.0])
    assert (one.png, one.svg) == (other.png, other.svg)
    assert one.rows == (("0", 1.0), ("1", 2.0))
    assert drawn([1.0, 3.0]).png != one.png


def test_a_picture_on_a_page_is_its_svg_and_its_file_a_png() -> None:
    own = drawn([1.0, 2.0])
    kind, _, content = own.source.partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert base64.b64decode(content) == own.svg
    assert b"<svg" in own.svg
    assert own.png.startswith(b"\x89PNG")


def test_the_look_of_reports_ends_with_the_drawing() -> None:
    from matplotlib import rcParams

    before = rcParams["svg.hashsalt"]
    with apply_style():
        assert rcParams["svg.hashsalt"] == "fedsim"
    assert rcParams["svg.hashsalt"] == before


def test_a_figure_has_its_size_in_inches() -> None:
    assert tuple(canvas()[0].get_size_inches()) == pytest.approx(SIZE)
    assert tuple(blank(3.0, 2.0).get_size_inches()) == (3.0, 2.0)
    assert blank(3.0, 2.0, 50).dpi == 50


def test_an_axis_names_what_was_measured_and_its_unit_where_it_has_one() -> None:
    accuracy = registry.every_metric()["test_accuracy"]
    assert accuracy.suffix.strip() == "%"
    assert utility_axis(accuracy) == f"test {accuracy.title} (%)"
    assert utility_axis(accuracy.model_copy(update={"title": "error", "form": "number", "unit": ""})) == "test error"
    assert utility_axis(None) == "test utility"
