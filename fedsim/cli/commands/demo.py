"""`fedsim demo`."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fedsim.cli.commands._console import advise_on_interrupt, command, say, screen
from fedsim.core.errors import FedsimError, MissingExtra

if TYPE_CHECKING:
    from rich.console import Console

    from fedsim.demo.messages import Language

_PROCESSES = 2
_LINE_EVERY_SECONDS = 10.0


@command(epilog="Example: fedsim demo --out demo.html")
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="record a page with a story and sliders into this file; it opens without network"),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="serve a page to draw on, only to this machine")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of --live; 0: any free port")] = 8765,
    host: Annotated[
        str, typer.Option(help="address of this machine at which --live serves a whole room; 0.0.0.0: all of them")
    ] = "127.0.0.1",
    terminal: Annotated[bool, typer.Option("--terminal", help="show attacks in this terminal")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="record more settings and frames of --out: about five minutes, for two")
    ] = False,
    language: Annotated[str, typer.Option(help="en, de or fr: the language in which the demo begins")] = "en",
) -> None:
    """Show how an image leaks from a gradient: on a page with a story, on a page to draw on, or in the terminal."""
    if [out is not None, live, terminal].count(True) != 1:
        raise FedsimError("choose a demo: --out demo.html, --live or --terminal.")
    if full and out is None:
        raise FedsimError("--full belongs to --out. The other demos record nothing.")
    if host != "127.0.0.1" and not live:
        raise FedsimError("--host belongs to --live. The other demos start no server.")
    from fedsim.demo.messages import language_of

    chosen = language_of(language)
    with advise_on_interrupt(
        lambda: "Interrupted." if out is None else "Interrupted. Type the same command to go on from here."
    ):
        if out is not None:
            _record(out, full, chosen)
        elif live:
            _serve(port, host, chosen)
        else:
            _show(chosen)


def _record(out: Path, full: bool, language: Language) -> None:
    from fedsim.demo import page
    from fedsim.demo.lesson import FULL, QUICK, installed_grids, parts_beside, record_lesson

    page.check_place(out)
    chosen, kept = installed_grids(FULL if full else QUICK), parts_beside(out)
    with show_progress(screen) as on_step:
        lesson = record_lesson(chosen, _PROCESSES, on_step, kept=kept)
    page.write(lesson, out, language)
    kept.remove()
    say(f"Open {out} in a browser ({out.stat().st_size / 1e6:.1f} MB). It needs no network.")
    if not full:
        say("It has few settings of the sliders; --full records more.")
    if len(chosen) == 1:
        say("It has digits alone. For photographs, first: pip install 'fedsim-privacy[photographs]'")


def _serve(port: int, host: str, language: Language) -> None:
    from fedsim.demo.live import serve

    serve(port, lambda url: _announce(url, host), host, language)


def _announce(url: str, host: str) -> None:
    if host == "127.0.0.1":
        say(f"Open {url} in a browser on this machine. Ctrl-C ends it. Nothing is stored.")
        return

    say(f"Open {url} in a browser of this network, or scan the code. Ctrl-C ends it. Nothing is stored.")
    say("Warning: everybody in this network can open the page and let this machine work.")
    say("Drawings travel unencrypted. Use it in a room that you trust, and end it after the lesson.")
    try:
        say(code_of(url))
    except MissingExtra as error:
        say(f"No code to scan: {error}")


def _show(language: Language) -> None:
    from fedsim.demo.terminal import show
    from fedsim.demo.victim import Setting

    show(screen, Setting(), language)


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (settings done, all settings): a bar on a terminal, else a line every ten seconds.

    Its first call says how many were done before.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    begin = last = time.monotonic()
    before: int | None = None
    columns = (TextColumn("settings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("settings", total=None)

        def show(done: int, total: int) -> None:
            nonlocal before, last
            before = done if before is None else before
            progress.update(bar, completed=done, total=total)
            time_now = time.monotonic()
            if console.is_terminal or time_now - last < _LINE_EVERY_SECONDS:
                return
            last = time_now
            left = (time_now - begin) / max(1, done - before) * (total - done)
            console.print(Text(f"  {done} of {total} settings recorded, about {left:.0f} s left"), soft_wrap=True)

        yield show


def code_of(address: str) -> str:
    """Return the code as lines of block characters.

    Raises:
        MissingExtra: segno is not installed.
    """
    try:
        import segno
    except ImportError:
        raise MissingExtra("segno, which draws the code to scan,", "pip install 'fedsim-privacy[demo]'") from None
    lines = io.StringIO()
    segno.make(address, micro=False).terminal(lines, border=2, compact=True)
    return lines.getvalue()
