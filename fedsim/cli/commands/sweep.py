"""`fedsim sweep`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.commands._checking import check_figures, expected_of
from fedsim.cli.commands._console import (
    ScenarioFile,
    advise_on_interrupt,
    ask_to_stop,
    command,
    complain,
    duration_suffix,
    say,
    screen,
    seconds,
)
from fedsim.experiment.sweep.origin import finished_before, origin_of

if TYPE_CHECKING:
    from fedsim.experiment.sweep.executors import Executor
    from fedsim.experiment.sweep.run import Outcome
    from fedsim.scenario import Scenario


@command(epilog="Example: fedsim sweep my_sweep.toml --jobs 2 --time-limit 20m")
def sweep(
    scenario: ScenarioFile,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a value; may be repeated")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="worker processes; unset: one per core")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the sweep; absent: results/NAME")] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="start no run after this wall-clock time: 90s, 20m, 2h; it changes no result, and the same command "
            "continues",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="HOST:PORT of a Ray cluster for the runs, or 'local' to start a cluster"),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="compare the sweep with the scenario's expected figures; exit code 1 if it differs"
        ),
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="let the scenario name any function and read any file")
    ] = False,
) -> None:
    """Run all unfinished runs of a sweep; after an interruption the same command continues."""
    folder, overrides = out or Path("results") / scenario.stem, set_ or []
    origin = origin_of(scenario, overrides)
    runs = None if check else finished_before(folder, origin)
    if runs is not None:
        say(f"{runs} of {runs} runs are finished in {folder}.")
        return

    from fedsim.scenario import load

    loaded = load(scenario, overrides, trust=trust)
    expected = expected_of(scenario, overrides) if check else None
    _make(loaded, str(scenario), jobs or os.cpu_count() or 1, folder, seconds(time_limit), ray, origin)
    if expected is not None:
        from fedsim.experiment.sweep.expectation import figures

        check_figures(figures(folder), {}, expected, is_silent=False)


def _make(
    loaded: Scenario, source: str, jobs: int, path: Path, time_limit: float | None, ray: str | None, origin: str
) -> None:
    from fedsim.cli import display
    from fedsim.experiment.sweep.executors.processes import ProcessExecutor
    from fedsim.experiment.sweep.folder import SweepFolder, plan_of
    from fedsim.experiment.sweep.plan import lacks_control, plan_runs
    from fedsim.experiment.sweep.run import sweep as made
    from fedsim.report.tables.figures import with_noun
    from fedsim.scenario import Sweep

    runs = plan_runs(loaded, source)
    folder = SweepFolder(path)
    say(f"{loaded.title}: {with_noun(len(runs), 'run')}{duration_suffix(loaded.minutes)}")
    if lacks_control(runs):
        complain(
            "No setting is undefended, so a failed attack may be a weak attack. Add a setting "
            "with model.dropout = 0 and without defenses and components."
        )
    with (
        advise_on_interrupt(lambda: f"Interrupted. Finished runs are in {folder.path}; the same command continues."),
        folder.lock_for_sweep(plan_of(loaded, runs)),
        _ray_executor(ray) if ray else nullcontext(ProcessExecutor()) as executor,
        ask_to_stop() as stop,
        display.counting(screen, len(runs)) as on_outcome,
    ):
        folder.keep_origin(origin)
        outcomes = made(
            folder,
            runs,
            loaded.sweep or Sweep(),
            executor=executor,
            jobs=jobs,
            command=shlex.join(["fedsim", *sys.argv[1:]]),
            budget=time_limit,
            on_outcome=on_outcome,
            should_stop=stop.is_set,
        )
    _report(folder.path, len(runs), outcomes)


def _ray_executor(address: str) -> AbstractContextManager[Executor]:
    from fedsim.experiment.sweep.executors.ray import open_ray

    return open_ray(None if address == "local" else address)


def _report(folder: Path, runs: int, outcomes: Sequence[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        complain(f"Failed: {outcome.run.name}: {outcome.failure.why if outcome.failure else ''}")
    if any(outcome.failure and outcome.failure.cause == "disk" for outcome in failed):
        complain("The disk is full. Make room: the same command continues, and no finished run is lost.")
    say(f"{len(outcomes) - len(failed)} of {runs} runs are finished in {folder}.")
    if failed:
        raise typer.Exit(1)
