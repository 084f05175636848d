"""Style of the report's figures: colours safe for colour-blind readers, and figures stored with their data.

Colours are from Okabe and Ito; line styles, hatches and markers repeat the distinction for greyscale print.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fedsim.core.metric import Metric
from fedsim.report.document import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
HATCHES = ("", "////", "....")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")

Rows = Sequence[tuple[Any, ...]]

SIZE = (5.0, 3.2)
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "fedsim",
    "figure.dpi": 160,
    "figure.constrained_layout.use": True,
}


@contextmanager
def apply_style() -> Iterator[None]:
    """Apply the report's matplotlib style; also a decorator."""
    from matplotlib import rc_context  # noqa: PLC0415 - half a second that readers of records skip

    with rc_context(_STYLE):
        yield


def canvas() -> tuple[Figure, Axes]:
    """Return a figure of the default size and its axes."""
    figure = blank(*SIZE)
    return figure, figure.subplots()


def blank(width: float, height: float, dpi: float | None = None) -> Figure:
    """Return an empty figure; sizes in inches, default resolution unless `dpi` is given."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    return Figure(figsize=(width, height), dpi=dpi)


def picture(name: str, figure: Figure, *, arm: str, alt: str, columns: tuple[str, ...], rows: Rows) -> Picture:
    """Return a figure as a picture, with the data that it plots."""
    return Picture(name, arm, alt, *render_figure(figure), columns, tuple(rows))


def render_figure(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as PNG and as SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - as above
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415 - as above

    png, svg = io.BytesIO(), io.BytesIO()  # not savefig, which draws twice per file
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    figure.set_layout_engine("none")  # already laid out
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


def utility_axis(metric: Metric | None) -> str:
    """Return the axis label of a test metric."""
    if metric is None:
        return "test utility"
    return f"test {metric.title} ({metric.suffix.strip()})" if metric.suffix else f"test {metric.title}"
