"""`fedsim demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.commands._console import advising, command, say, screen
from fedsim.core.errors import FedsimError, MissingExtra

if TYPE_CHECKING:
    from fedsim.demo.messages import Language

_PROCESSES = 2


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
    with advising(lambda: "Interrupted." if out is None else "Interrupted. Type the same command to go on from here."):
        if out is not None:
            _record(out, full, chosen)
        elif live:
            _serve(port, host, chosen)
        else:
            _show(chosen)


def _record(out: Path, full: bool, language: Language) -> None:
    from fedsim.demo import page
    from fedsim.demo.lesson import FULL, QUICK, installed, parts_beside, record_lesson
    from fedsim.demo.progress import counted

    page.check_place(out)
    chosen, kept = installed(FULL if full else QUICK), parts_beside(out)
    with counted(screen) as on_step:
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
    from fedsim.demo.scan import code_of

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
