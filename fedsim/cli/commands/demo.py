"""`fedsim demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import command, complain, say, screen
from fedsim.core.errors import FedsimError

_PROCESSES = 2


@command(epilog="Example: fedsim demo --out demo.html")
def demo(
    out: Annotated[
        Path | None, typer.Option(help="record a page with sliders into this file; it opens without network")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="serve a page to draw on, only to this machine")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of --live; 0: any free one")] = 8765,
    terminal: Annotated[bool, typer.Option("--terminal", help="show attacks in this terminal")] = False,
) -> None:
    """Show how an image leaks from a gradient: on a page with sliders, on a page to draw on, or in the terminal."""
    if [out is not None, live, terminal].count(True) != 1:
        raise FedsimError("say which demo: one of --out demo.html, --live and --terminal.")
    try:
        if out is not None:
            _record(out)
        elif live:
            _serve(port)
        else:
            _show()
    except KeyboardInterrupt:
        complain("Interrupted." if out is None else "Interrupted. Nothing was written.")
        raise typer.Exit(130) from None


def _record(out: Path) -> None:
    from fedsim.demo import page
    from fedsim.demo.progress import counted
    from fedsim.demo.recording import Grid, record

    page.check_place(out)
    with counted(screen) as told:
        recording = record(Grid(), _PROCESSES, told)
    page.write(recording, out)
    say(f"Open {out} in a browser ({out.stat().st_size / 1e6:.1f} MB). It needs no network.")


def _serve(port: int) -> None:
    from fedsim.demo.live import serve

    serve(port, lambda url: say(f"Open {url} in a browser on this machine. Ctrl-C ends it. Nothing is stored."))


def _show() -> None:
    from fedsim.demo.terminal import show
    from fedsim.demo.victim import Setting

    show(screen, Setting())
