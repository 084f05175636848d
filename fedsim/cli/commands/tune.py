"""`fedsim tune`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.commands._console import ScenarioFile, advise_on_interrupt, command, say

if TYPE_CHECKING:
    from fedsim.experiment.sweep.tuning import Tuned


@command(epilog="Example: fedsim tune my_scenario.toml --out results/tuned")
def tune(
    scenario: ScenarioFile,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a value; may be repeated")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the search; absent: results/NAME-tuned")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="let the scenario name any function and read any file")
    ] = False,
) -> None:
    """Search for an attack's strongest settings in every arm, on victims that no score uses. Needs an extra."""
    from fedsim.scenario import load

    loaded, folder = load(scenario, set_ or [], trust=trust), out or Path("results") / f"{scenario.stem}-tuned"

    from fedsim.core.sanitize import csv_table
    from fedsim.experiment.sweep.tuning import tune as tuned
    from fedsim.record.atomic_files import write_atomic

    with advise_on_interrupt(lambda: f"Interrupted. Finished trials are in {folder}; the same command continues."):
        best = tuned(loaded, folder, lambda *where: say(_trial(*where)))
    rows = [{**asdict(trial), "settings": json.dumps(trial.settings)} for trial in best]
    write_atomic(folder / "tuned.csv", csv_table(rows[0], [[*row.values()] for row in rows]))
    write_atomic(folder / "tuned.json", json.dumps([asdict(trial) for trial in best], indent=1).encode())
    for trial in best:
        default = "" if trial.default is None else f" (default {trial.default:.4g})"
        say(
            f"{trial.arm}: {trial.metric} {trial.score:.4g} with "
            f"{trial.settings or 'the default'}{default}{_price(trial)}"
        )
    say(f"Wrote {folder / 'tuned.csv'} and tuned.json. To report a score, run the scenario, which has other victims.")


def _trial(arm: str, number: int, total: int | None) -> str:
    return f"{arm}: trial {number}" if total is None else f"{arm}: trial {number} of {total}"


def _price(trial: Tuned) -> str:
    """Return the epsilon of one training, and the epsilon of choosing the best of several."""
    if trial.epsilon is None or trial.delta is None:
        return ""
    of_one = f"; a single training has epsilon {trial.epsilon:.4g} at delta {trial.delta:g}"
    if trial.epsilon_of_choice is None:
        return of_one
    return (
        f"{of_one}, and the best of a number that was drawn {trial.epsilon_of_choice:.4g}, while that number and the "
        "other trials stay secret"
    )
