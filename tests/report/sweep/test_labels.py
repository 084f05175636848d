"""Names around a point: none over another, none over a marker, none outside."""

from itertools import combinations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from fedsim.report.sweep.labels import NamedPoint, annotate

CROWDED = [NamedPoint(f"gradient-noise {scale:g}", 81 + 0.3 * (scale % 3), 2 + 0.8 * scale) for scale in range(9)]
ALONE = [NamedPoint("clipping", 40, 60)]


def boxes(figure: Figure) -> list:
    figure.draw_without_rendering()
    (axes,) = figure.axes
    return [Text.get_window_extent(own) for own in axes.texts if isinstance(own, Annotation)]


@pytest.mark.parametrize("points", [ALONE, CROWDED, pytest.param([*ALONE, *CROWDED], marks=pytest.mark.slow)])
def test_names_do_not_overlap_each_other_or_a_marker_and_stay_inside(points: list[NamedPoint]) -> None:
    figure = Figure((6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for own in points:
        axes.plot(own.x, own.y, "*", ms=10, label=own.name)
    axes.set(xlim=(0, 100), ylim=(-3, 103), title="strongest attack")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    assert annotate(axes, points) == []
    found = boxes(figure)
    assert len(found) == len(points)
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    marks = axes.transData.transform([(own.x, own.y) for own in points])
    assert not any(box.contains(x, y) for box in found for x, y in marks)
    frame = axes.bbox.padded(1)
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in found)


def test_a_name_without_room_is_left_out_and_told() -> None:
    figure = Figure((1, 1), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    assert annotate(axes, [NamedPoint("a name that is far too long for it", 0.5, 0.5)]) == [
        "a name that is far too long for it"
    ]
    assert boxes(figure) == []
