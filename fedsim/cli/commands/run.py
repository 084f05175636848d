"""`fedsim run`."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
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
)
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
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a value; may be repeated")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; absent: results/NAME")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="override the scenario's seed")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run that the folder holds")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="keep the complete arms of the interrupted run in that folder, and begin the others"
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="compare the run with the scenario's expected figures; exit code 1 if it differs"),
    ] = False,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="run each attack in a subprocess that receives only its observation")
    ] = False,
    salt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="salt of the attacks' seeds, as --isolate writes it to the run's folder"),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="let the scenario name any function and read any file")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print the verdict alone")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the verdict and all figures as JSON alone")] = False,
) -> None:
    """Run a scenario: train, observe, attack, score, and write record, arrays and report into a folder."""
    from fedsim.scenario import load
    from fedsim.scenario.user_code import forbid_exit

    if resume and overwrite:
        raise FedsimError("--resume continues a run and --overwrite replaces it: pass only one of the two.")
    overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
    with forbid_exit(f"code that {scenario} names"):
        loaded = load(scenario, overrides, trust=trust)
    from fedsim.cli import display
    from fedsim.experiment.expectation import figures, hashes
    from fedsim.experiment.isolating import describe_open
    from fedsim.experiment.run_into import run_into
    from fedsim.report import writing
    from fedsim.report.tables.findings import alarms

    if loaded.sweep is not None:
        raise FedsimError(f"{scenario} is a sweep of many runs. Use: fedsim sweep {scenario}")
    if check and (isolate or salt is not None):
        raise FedsimError("--check compares with figures of attacks without a salt: leave out --isolate and --salt.")
    expected = expected_of(scenario, overrides) if check else None
    folder, is_silent = out or Path("results") / scenario.stem, quiet or as_json
    if isolate and (gaps := describe_open()):
        complain(gaps)
    watching = display.silent() if is_silent else display.open_display(screen)
    with advise_on_interrupt(partial(_advice, folder, loaded)), ask_to_stop() as stop, watching as watcher:
        record = run_into(
            loaded,
            folder,
            command=shlex.join(["fedsim", *sys.argv[1:]]),
            source=str(scenario),
            existing="resume" if resume else "replace" if overwrite else "refuse",
            isolate=isolate,
            salt=salt,
            watcher=watcher,
            on_open=_keep_silent if is_silent else partial(_announce, loaded, folder, is_resumed=resume),
            should_stop=stop.is_set,
            write_page=writing.build,
        )
    page = folder / "report.html"
    if as_json:
        _print_json(record, page)
    else:
        _show(record, page, is_short=quiet)
    if expected is not None:
        check_figures(figures(record), hashes(record), expected, is_silent=as_json)
    if loud := alarms(record):
        complain("\n".join(loud))
        raise typer.Exit(1)


def _keep_silent(_earlier: RunRecord | None) -> None:
    pass


def _announce(scenario: Scenario, folder: Path, earlier: RunRecord | None, *, is_resumed: bool) -> None:
    say(scenario.title + duration_suffix(scenario.minutes))
    if earlier is not None:
        say(f"Continues with {_resumption(earlier, scenario)}.")
    elif is_resumed:
        say(f"{folder} holds no run to resume, so it begins anew.")


def _advice(folder: Path, scenario: Scenario) -> str:
    """Return how to continue an interrupted run."""
    from fedsim.record.store import RECORD, read_record

    if not (folder / RECORD).exists():
        return "Interrupted before the first result. The same command starts again."
    remaining = _resumption(read_record(folder), scenario)
    return f"Interrupted. Results so far are in {folder}; add --resume to continue with {remaining}."


def _resumption(earlier: RunRecord, scenario: Scenario) -> str:
    """Return a description of a resumed run: complete arms are kept, the others start anew."""
    from fedsim.scenario import arms

    done, total = sum(arm.complete for arm in earlier.arms), len(list(arms(scenario)))
    return f"arm {done + 1} of {total}, from round 1 on" if done < total else "the report, since every arm is complete"


def _print_json(record: RunRecord, page: Path) -> None:
    from fedsim.cli import endings

    say(json.dumps(endings.summary_of(record, page), indent=1))


def _show(record: RunRecord, page: Path, *, is_short: bool) -> None:
    from fedsim.cli import endings
    from fedsim.report.brief import summarise_run

    say("\n".join(summarise_run(record)))
    for line in endings.doubt_truth(record):
        say(line)
    if not is_short:
        _show_tables(record)
    say(f"Report: {page}")


def _show_tables(record: RunRecord) -> None:
    from fedsim.cli import endings
    from fedsim.report.document.terminal import to_terminal

    to_terminal(endings.figures(record), screen)
    for arm in record.arms:
        say(f"Hash of the trained model{'' if len(record.arms) == 1 else f', {arm.name}'}: {arm.model_hash}")
