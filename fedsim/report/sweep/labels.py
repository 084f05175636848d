"""Names beside the points of a picture, none over another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_SIZE, _COLOUR = 7, "#333333"
_MARKER = 5.0  # points around the middle of a marker that a name leaves free
_NEAR = 6.0
_DISTANCES = (_NEAR, 14.0, 23.0, 32.0, 41.0, 54.0, 68.0)  # in points; a line leads to a name that is not near
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
_SIDES = {1: "left", 0: "center", -1: "right"}
_HEIGHTS = {1: "bottom", 0: "center", -1: "top"}


class Named(NamedTuple):
    """A point and its name."""

    name: str
    x: float
    y: float


def annotate(axes: Axes, points: Sequence[Named]) -> list[str]:
    """Write each name as near to its point as there is room, and return those that have none.

    Call it when limits, titles and legend of the figure are settled: they change where there is room.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not points:
        return []
    figure.draw_without_rendering()  # settles the layout
    scale = figure.dpi / 72
    places = [axes.transData.transform((own.x, own.y)) for own in points]
    taken = [_around(x, y, _MARKER * scale) for x, y in places]
    return [own.name for own in sorted(points, key=lambda own: (own.x, own.y)) if not _placed(axes, own, taken)]


def _placed(axes: Axes, own: Named, taken: list[Bbox]) -> bool:
    """Write one name where it meets nothing that is taken."""
    for across, up, distance in _offsets():
        text = _written(axes, own, across, up, distance, line=False)
        box = text.get_window_extent()
        if not _is_inside(box, axes.bbox) or any(box.overlaps(other) for other in taken):
            text.remove()
            continue
        taken.append(box)
        if distance > _NEAR:
            text.remove()
            _written(axes, own, across, up, distance, line=True)
        return True
    return False


def _written(axes: Axes, own: Named, across: int, up: int, distance: float, *, line: bool) -> Annotation:
    return axes.annotate(
        own.name,
        (own.x, own.y),
        xytext=(across * distance, up * distance),
        textcoords="offset points",
        fontsize=_SIZE,
        color=_COLOUR,
        ha=_SIDES[across],
        va=_HEIGHTS[up],
        arrowprops={"arrowstyle": "-", "color": _COLOUR, "lw": 0.4, "shrinkA": 0, "shrinkB": 3} if line else None,
    )


def _offsets() -> Iterator[tuple[int, int, float]]:
    return ((across, up, distance) for distance in _DISTANCES for across, up in _DIRECTIONS)


def _around(x: float, y: float, margin: float) -> Bbox:
    from matplotlib.transforms import Bbox  # noqa: PLC0415 - keeps the import cheap

    return Bbox.from_extents(x - margin, y - margin, x + margin, y + margin)


def _is_inside(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
