"""`fedsim run`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.commands._console import ScenarioFile, ask_to_stop, command, complain, say, screen
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.record import RunRecord
    from fedsim.scenario import Scenario


@command(
    epilog="Example: fedsim run scenarios/00_quickstart.toml --set attacks.0.max_iterations=500 --out results/short"
)
def run(
    scenario: ScenarioFile,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one value, as often as needed")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; absent: results/NAME")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="override the scenario's seed")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run that the folder holds")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="continue the interrupted run in that folder")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="compare the run with the scenario's table [expected]; exit code 1 if it differs"),
    ] = False,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="run each attack in its own process, which holds only what it may see")
    ] = False,
    trust: Annotated[bool, typer.Option("--trust", help="allow the scenario to name any function")] = False,
) -> None:
    """Run a scenario: train, observe, attack, score, and write record, arrays and report into one folder."""
    from fedsim import report
    from fedsim.cli import display
    from fedsim.experiment import runner
    from fedsim.record.store import RunFolder
    from fedsim.scenario import load, own_models
    from fedsim.threat.attacking import in_process
    from fedsim.threat.attacking.apart import start_isolated

    overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
    foreign = f"code that {scenario} names"
    with own_models.staying(foreign):
        loaded = load(scenario, overrides, trust=trust)
    if loaded.sweep is not None:
        raise FedsimError(f"{scenario} is a sweep of many runs. Use: fedsim sweep {scenario}")
    if check:
        _check_is_possible(loaded, scenario, overrides)
    folder = RunFolder(out or Path("results") / scenario.stem)
    with folder.locked():
        earlier = folder.reopen() if resume else None
        if earlier is None:
            folder.create(overwrite=overwrite or resume)
        command = shlex.join(["fedsim", *sys.argv[1:]])
        say(f"{loaded.title}" + (f" (about {loaded.minutes:g} minutes on two cores)" if loaded.minutes else ""))
        try:
            with own_models.staying(foreign), ask_to_stop() as stop, display.watching(screen) as watcher:
                record = runner.run(
                    loaded,
                    folder,
                    watcher,
                    command=command,
                    earlier=earlier,
                    should_stop=stop.is_set,
                    attackers=start_isolated if isolate else in_process,
                )
        except KeyboardInterrupt:
            complain(f"Interrupted. Results so far are in {folder.path}; add --resume to continue.")
            raise typer.Exit(130) from None
        page = report.build(folder.path)
    _show(record, page)
    if check:
        _check(record, loaded)


def _check_is_possible(loaded: Scenario, path: Path, overrides: Sequence[str]) -> None:
    """Refuse, before anything runs, a check without figures or of a changed scenario."""
    if overrides:
        raise FedsimError("--check compares the scenario as it stands with its figures: leave out --set and --seed.")
    if not loaded.expected.figures and not loaded.expected.model_hash:
        raise FedsimError(
            f"{path}: expected: there is nothing to compare with. `fedsim expect FOLDER` prints the table "
            "[expected] of an earlier run."
        )


def _check(record: RunRecord, scenario: Scenario) -> None:
    """Print where a run differs from its scenario's expected figures; exit with 1 if it does."""
    from fedsim.experiment.expectation import departures

    found = departures(record, scenario.expected)
    for sentence in found:
        complain(f"Departs: {sentence}.")
    compared = len(scenario.expected.figures) + len(scenario.expected.model_hash)
    say(f"Compared with [expected]: {compared - len(found)} of {compared} are as expected.")
    if found:
        raise typer.Exit(1)


def _show(record: RunRecord, page: Path) -> None:
    """Print the results; exit with 1 if an audit contradicts a guarantee."""
    from fedsim.cli import endings

    if any(arm.attacks for arm in record.arms):
        screen.print(endings.results(record))
    for seen in endings.own_tables(record):
        screen.print(seen)
    if any(arm.membership for arm in record.arms):
        screen.print(endings.memberships(record))
    if any(arm.exposure for arm in record.arms):
        screen.print(endings.exposures(record))
    for line in (*endings.doubt_truth(record), *endings.guarantees(record), *endings.audits(record)):
        say(line)
    for arm in record.arms:
        say(f"Hash of the trained model{'' if len(record.arms) == 1 else f', {arm.name}'}: {arm.model_hash}")
    say(f"Report: {page}")
    if any(own.contradicts for arm in record.arms for own in arm.audits):
        complain("An audit contradicts a guarantee: the mechanism does not keep its guarantee.")
        raise typer.Exit(1)
