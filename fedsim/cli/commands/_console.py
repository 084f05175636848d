"""Code of all commands: the application, the screen, and the handling of Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import click
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from fedsim import __version__
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.sanitize import printable
from fedsim.core.source import find_shipped_folder, find_source, read_tables


class Commands(TyperGroup):
    """The commands; a name that is none is answered once, with the nearest: click and typer would both answer."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"there is no command '{args[0]}'.{did_you_mean(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


class OneCommand(TyperCommand):
    """A typer command with the help of its arguments, and without typer's bar before ``[required]``.

    From click 8.5 on typer loses the help of arguments.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        helps = _helps(named["callback"])
        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and not parameter.help:
                parameter.help = helps.get(parameter.name or "")

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: typer writes the arguments with the options."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the whole first sentence: a list of commands breaks lines, and cuts none."""
        del limit
        return (self.help or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")

    def get_help(self, ctx: click.Context) -> str:
        return super().get_help(ctx).replace("\\[", "[")


def _helps(function: Callable[..., Any]) -> dict[str, str | None]:
    """Return the help of a command's arguments from its annotations, by name."""
    declared = get_type_hints(function, include_extras=True)
    return {
        name: annotation.help
        for name, hint in declared.items()
        for annotation in getattr(hint, "__metadata__", ())
        if isinstance(annotation, ArgumentInfo)
    }


app = typer.Typer(
    cls=Commands,
    help="Measures the leakage of federated learning, and the cost of defenses.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def _find_scenario(given: Path) -> Path:
    """Return the path of the given scenario file; a file that cannot be read is reported before torch is imported."""
    path = find_source(given)
    read_tables(path)
    if path != given and _hides_shipped(path):
        complain(f"Scenario: {path} of this folder, which comes before the shipped scenario of the same name.")
    return path


def _hides_shipped(path: Path) -> bool:
    """Return whether a scenario of the working folder has the name of a shipped scenario."""
    shipped_file = find_shipped_folder() / path.name
    return path.parent == Path("scenarios") and shipped_file.is_file() and not shipped_file.samefile(path)


ScenarioFile = Annotated[
    Path,
    typer.Argument(
        callback=_find_scenario, help="a scenario file (TOML), or a name that `fedsim list scenarios` shows"
    ),
]


def command(name: str | None = None, *, epilog: str) -> Callable[[Any], Any]:
    """Return a decorator that makes a function a command; the epilog is an example of its use."""
    return app.command(name, cls=OneCommand, epilog=epilog)


def _tell_version(wanted: bool) -> None:
    if wanted:
        say(f"fedsim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="print the version, and end")
    ] = False,
) -> None:
    """Read the options before the command."""


class _Screen(Console):
    """A console that shows text without executing it: a title may contain terminal commands."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:
        """Continue silently after the reader closed the pipe, as ``head`` does: the command also writes files."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


screen = _Screen()
complaints = _Screen(stderr=True)


def duration_suffix(minutes: float | None) -> str:
    """Return a duration as a suffix of a title; empty if it is unknown."""
    if not minutes:
        return ""
    return f" (about {minutes:g} {'minute' if minutes == 1 else 'minutes'} on two cores)"


def say(text: str) -> None:
    screen.print(Text(text), soft_wrap=True)


def complain(text: str) -> None:
    complaints.print(Text(text), soft_wrap=True)


@contextmanager
def advise_on_interrupt(advice: Callable[[], str]) -> Iterator[None]:
    """Exit with 130 after an interruption of the block, and print the advice: where results are, how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        complain(advice())
        raise typer.Exit(130) from None


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
        raise FedsimError(f"--time-limit is '{text}', expected a number with s, m or h, for example 20m.")
    return float(number) * _UNITS[unit]
