"""Placement of name labels next to the points of a chart, without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

_SIZE, _COLOUR = 7, "#333333"
_MARKER = 5.0  # free points around the centre of a marker
_NEAR = 6.0
_DISTANCES = (_NEAR, *range(14, 104, 9))  # in points; a line connects a distant label
_DIRECTIONS = (
    *((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)),
    *((-1, -0.5), (-1, 0.5), (-0.5, -1), (0.5, -1), (-0.5, 1), (0.5, 1), (1, -0.5), (1, 0.5)),
)


class NamedPoint(NamedTuple):
    """A point and its name."""

    name: str
    x: float
    y: float


class _Taken(NamedTuple):
    """Boxes that a label must not cover, and lines that should not cross it."""

    markers: list[Bbox]
    names: list[Bbox]
    lines: list[Path]


def annotate(axes: Axes, points: Sequence[NamedPoint]) -> list[str]:
    """Write each name as close to its point as space permits, and return the names without space.

    Call it after limits, titles and legend of the figure are final, since they change the available space.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not points:
        return []
    figure.draw_without_rendering()  # settles the layout
    scale = figure.dpi / 72
    middles = axes.transData.transform([(point.x, point.y) for point in points])
    taken = _Taken([_around(float(x), float(y), _MARKER * scale) for x, y in middles], [], [])
    ordered = sorted(points, key=lambda point: (-point.x, point.y))  # the most accurate points crowd at the edge
    sizes = {name: _size(axes, name) for name in {point.name for point in points}}
    return [
        point.name
        for point in ordered
        if not any(_place_name(axes, point, sizes[point.name], taken, is_clear=clear) for clear in (True, False))
    ]


def _place_name(axes: Axes, point: NamedPoint, size: tuple[float, float], taken: _Taken, *, is_clear: bool) -> bool:
    """Write a name at the first free position and return whether one was free; `is_clear`: no line crosses a name."""
    x, y = (float(part) for part in axes.transData.transform((point.x, point.y)))
    scale = axes.figure.dpi / 72
    for shift_x, shift_y, distance in _offsets():
        box = _box(x + shift_x * distance * scale, y + shift_y * distance * scale, size, shift_x, shift_y)
        line = _line(x, y, box)
        is_far = distance > _NEAR
        if (
            not _is_inside(box, axes.bbox)
            or any(box.overlaps(shape) for shape in (*taken.markers, *taken.names))
            or (is_clear and any(old.intersects_bbox(box, filled=False) for old in taken.lines))
            or (is_clear and is_far and any(line.intersects_bbox(old, filled=False) for old in taken.names))
        ):
            continue
        taken.names.append(box)
        if is_far:
            taken.lines.append(line)
        _write(axes, point, shift_x, shift_y, distance, line=is_far)
        return True
    return False


def _size(axes: Axes, name: str) -> tuple[float, float]:
    """Return width and height of a name, in pixels."""
    text = axes.text(0, 0, name, fontsize=_SIZE)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def _box(x: float, y: float, size: tuple[float, float], shift_x: float, shift_y: float) -> Bbox:
    """Return the bounding box of a name at (x, y), extending in its direction."""
    from matplotlib.transforms import Bbox  # noqa: PLC0415 - keeps the import cheap

    width, height = size
    left = x if shift_x > 0 else x - width if shift_x < 0 else x - width / 2
    bottom = y if shift_y > 0 else y - height if shift_y < 0 else y - height / 2
    return Bbox.from_bounds(left, bottom, width, height)


def _write(axes: Axes, point: NamedPoint, shift_x: float, shift_y: float, distance: float, *, line: bool) -> None:
    axes.annotate(
        point.name,
        (point.x, point.y),
        xytext=(shift_x * distance, shift_y * distance),
        textcoords="offset points",
        fontsize=_SIZE,
        color=_COLOUR,
        ha="left" if shift_x > 0 else "right" if shift_x < 0 else "center",
        va="bottom" if shift_y > 0 else "top" if shift_y < 0 else "center",
        arrowprops={"arrowstyle": "-", "color": _COLOUR, "lw": 0.4, "shrinkA": 0, "shrinkB": 3} if line else None,
    )


def _line(x: float, y: float, box: Bbox) -> Path:
    """Return the line from a point to the centre of its name, where matplotlib's line begins."""
    from matplotlib.path import Path  # noqa: PLC0415 - keeps the import cheap

    return Path([(x, y), ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)])


def _offsets() -> Iterator[tuple[float, float, float]]:
    return ((shift_x, shift_y, distance) for distance in _DISTANCES for shift_x, shift_y in _DIRECTIONS)


def _around(x: float, y: float, margin: float) -> Bbox:
    from matplotlib.transforms import Bbox  # noqa: PLC0415 - keeps the import cheap

    return Bbox.from_extents(x - margin, y - margin, x + margin, y + margin)


def _is_inside(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
