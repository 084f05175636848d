"""`fedsim guard run`, `status`, `check` and `template`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from fedsim.cli.commands._console import Commands, OneCommand, app, ask_to_stop, say, screen
from fedsim.core.errors import FedsimError

guard = typer.Typer(cls=Commands, no_args_is_help=True, help="Guard the messages of Flower apps at a site.")
app.add_typer(guard, name="guard")

_POLICY = Path("guard.toml")
_PolicyFile = Annotated[Path, typer.Argument(help="the site's policy; docs/guard.md has a first example")]


@guard.command(cls=OneCommand, epilog="Example: fedsim guard run guard.toml")
def run(
    policy: _PolicyFile = _POLICY,
    force: Annotated[bool, typer.Option("--force", help="run with a version of Flower that was not tested")] = False,
) -> None:
    """Answer the messages of a SuperNode in place of flower-superexec, until Ctrl-C."""
    from fedsim.guard.flower_version import describe_untested_version

    untested = describe_untested_version()
    if untested is not None and not force:
        raise FedsimError(f"{untested} Install a tested version, or run with --force.")
    if untested is not None:
        say(f"{untested} It runs, as --force asks.")
    from fedsim.guard.policy import read_policy
    from fedsim.guard.serving import serve

    rules = read_policy(policy)
    with ask_to_stop() as should_stop:
        serve(rules, should_stop, lambda line: say(f"{datetime.now().astimezone():%H:%M:%S} {line}"))


@guard.command(cls=OneCommand, epilog="Example: fedsim guard status guard.toml")
def status(policy: _PolicyFile = _POLICY) -> None:
    """Show the privacy budget spent, the runs that spent it, and the number of rounds left."""
    from fedsim.guard.policy import read_policy
    from fedsim.guard.status import status_of

    spending = status_of(read_policy(policy))
    say(
        f"'{spending.subject}' has spent epsilon {spending.spent:.4g} of {spending.allowed:g} "
        f"at delta {spending.delta:g}. "
        f"Rounds left: {spending.rounds_left}."
    )
    if spending.unanswered_rounds:
        say(f"Rounds at work or broken off: {spending.unanswered_rounds}. They count.")
    if spending.truncated_lines:
        say(f"Lines that a kill cut off, before which nothing was trained: {spending.truncated_lines}.")
    say(f"Last entry: {spending.entries}. Note it: a ledger that later has fewer was cut.")
    if not spending.runs:
        return
    run, program, last = (Column(name, no_wrap=True) for name in ("run", "app", "last, UTC"))
    table = Table(run, program, "rounds", "evaluations", "epsilon alone", last)
    for share in spending.runs:
        moment = f"{datetime.fromisoformat(share.last):%Y-%m-%d %H:%M}"
        counts = (str(share.rounds), str(share.evaluations))
        table.add_row(share.run, share.app[:12], *counts, f"{share.alone:.4g}", moment)
    screen.print(table)


@guard.command(cls=OneCommand, epilog="Example: fedsim guard check guard.toml --rounds 10")
def check(
    policy: _PolicyFile = _POLICY,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="rounds of the run whose cost is printed; absent: messages.rounds")
    ] = None,
) -> None:
    """Validate a policy without running anything, and print permissions, refusals and the cost of a run."""
    from fedsim.guard.explanation import cost_of_run, permissions, refusals
    from fedsim.guard.policy import read_policy

    rules = read_policy(policy)
    say(f"{policy} is valid.")
    for title, sentences in (("Permits", permissions(rules)), ("Refuses", refusals(rules))):
        say(f"{title}:")
        for sentence in sentences:
            say(f"- {sentence}")
    say(cost_of_run(rules, rounds or rules.messages.rounds))


@guard.command(cls=OneCommand, epilog="Example: fedsim guard template my-app")
def template(folder: Annotated[Path, typer.Argument(help="new folder; its name is that of the app")]) -> None:
    """Write a Flower app that works under a guard, with batch normalisation and evaluation, and a policy for it."""
    from fedsim.guard.new_app import write_app

    write_app(folder)
    say(f"Wrote the app {folder} and {folder / 'guard.toml'}. Next steps:")
    say(f"  fedsim guard check {folder / 'guard.toml'}")
    say(f"  flwr build --app {folder}")
