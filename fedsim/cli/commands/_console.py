"""Code of all commands: the application, the screen, and the handling of Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from fedsim.core.errors import FedsimError
from fedsim.core.plain import printable

app = typer.Typer(
    help="Measures what federated learning leaks, and what it costs to stop it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


class _Screen(Console):
    """A console that shows text without executing it: a title may contain terminal commands."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


screen = _Screen()
complaints = _Screen(stderr=True)


def say(text: str) -> None:
    screen.print(Text(text), soft_wrap=True)


def complain(text: str) -> None:
    complaints.print(Text(text), soft_wrap=True)


@contextmanager
def ask_to_stop() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or a termination sets; the second signal does not wait for the end of a step.

    An interrupt raised at an arbitrary place can be lost, since callbacks from C suppress it.
    """
    event = threading.Event()

    def handle(_number: int, _frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str | None) -> float | None:
    """Return a span like ``20m`` in seconds."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
        raise FedsimError(f"--budget is '{text}', expected a number with s, m or h, for example 20m.")
    return float(number) * _UNITS[unit]
