"""`fedsim doctor`."""

from __future__ import annotations

from fedsim.cli.commands._console import command, say


@command(epilog="Example: fedsim doctor")
def doctor() -> None:
    """Show installed packages and present data, and how to get the rest."""
    from fedsim.cli.doctor import examine

    for finding in examine():
        mark = "ok     " if finding.present else "missing"
        say(f"{mark}  {finding.group} {finding.name}{f': {finding.detail}' if finding.detail else ''}")
        if finding.advice:
            say(f"         {finding.advice}")
