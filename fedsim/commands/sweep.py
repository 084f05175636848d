"""`fedsim sweep`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsim.commands._console import app, asked_to_stop, complain, say, screen, seconds


@app.command(epilog="Example: fedsim sweep my_sweep.toml --jobs 2 --budget 20m")
def sweep(
    scenario: Annotated[Path, typer.Argument(help="a scenario file with a [sweep] table")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one value, as often as needed")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="worker processes; one a core when absent")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the sweep; results/NAME when absent")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="begin no run later: 90s, 20m, 2h")] = None,
) -> None:
    """Make every run of a sweep that is not finished yet; the same command goes on after any interruption."""
    from fedsim import display
    from fedsim import sweep as sweeps
    from fedsim.experiment import scenario_hash
    from fedsim.scenario import Sweep, load
    from fedsim.sweep.folder import SweepFolder, plan_of

    sys.path.insert(0, str(Path.cwd()))
    loaded = load(scenario, set_ or [])
    runs = sweeps.planned(loaded, str(scenario))
    folder = SweepFolder(out or Path("results") / scenario.stem)
    folder.prepare(plan_of(loaded.title, scenario_hash(loaded), loaded.model_dump_json(), runs))
    say(f"{loaded.title}: {len(runs)} runs" + (f" (about {loaded.minutes:g} minutes)" if loaded.minutes else ""))
    command = shlex.join(["fedsim", *sys.argv[1:]])
    try:
        with folder.locked(), asked_to_stop() as stop, display.counting(screen, len(runs)) as told:
            outcomes = sweeps.sweep(
                folder,
                runs,
                loaded.sweep or Sweep(),
                jobs=jobs or os.cpu_count() or 1,
                command=command,
                budget=seconds(budget),
                on_outcome=told,
                should_stop=stop.is_set,
            )
    except KeyboardInterrupt:
        complain(f"Interrupted. What is finished lies in {folder.path}; the same command goes on.")
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        complain(f"Failed: {outcome.run.name}: {outcome.failure.why if outcome.failure else ''}")
    say(f"{len(outcomes) - len(failed)} of {len(runs)} runs are finished in {folder.path}.")
    if failed:
        raise typer.Exit(1)
