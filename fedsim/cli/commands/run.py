"""`fedsim run`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.commands._checking import check_figures, refuse_check
from fedsim.cli.commands._console import ScenarioFile, ask_to_stop, command, complain, in_minutes, say, screen
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.processes.methods import Start
    from fedsim.record import RunRecord
    from fedsim.record.store import RunFolder
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
        typer.Option("--check", help="compare the run with the scenario's table [expected]; exit code 1 if it differs"),
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
    from fedsim.experiment.expectation import figures, hashes
    from fedsim.experiment.isolating import choose_start, describe_open
    from fedsim.record.store import RunFolder
    from fedsim.report.tables.findings import alarms

    if loaded.sweep is not None:
        raise FedsimError(f"{scenario} is a sweep of many runs. Use: fedsim sweep {scenario}")
    if check:
        _check_is_possible(loaded, scenario, overrides, is_salted=isolate or salt is not None)
    folder = RunFolder(out or Path("results") / scenario.stem)
    is_silent = quiet or as_json
    with folder.locked():
        earlier = folder.reopen() if resume else None
        if earlier is None:
            folder.create(overwrite=overwrite or resume)
        if not is_silent:
            say(loaded.title + in_minutes(loaded.minutes))
            if earlier is not None:
                say(f"Continues with {_rest(earlier, loaded)}.")
            elif resume:
                say(f"{folder.path} holds no run to resume, so it begins anew.")
        start = choose_start(folder, isolate=isolate, salt=salt)
        if isolate and (gaps := describe_open()):
            complain(gaps)
        record, page = _run(loaded, folder, earlier, scenario, start, is_silent=is_silent)
    if as_json:
        _print_json(record, page)
    else:
        _show(record, page, is_short=quiet)
    if check:
        check_figures(figures(record), hashes(record), loaded, is_silent=as_json)
    if loud := alarms(record):
        complain("\n".join(loud))
        raise typer.Exit(1)


def _run(
    loaded: Scenario,
    folder: RunFolder,
    earlier: RunRecord | None,
    path: Path,
    start: Start,
    *,
    is_silent: bool,
) -> tuple[RunRecord, Path]:
    from fedsim.cli import display
    from fedsim.experiment import runner
    from fedsim.report import writing
    from fedsim.scenario.user_code import forbid_exit

    watching = display.silent() if is_silent else display.watching(screen)
    try:
        with forbid_exit(f"code that {path} names"), ask_to_stop() as stop, watching as watcher:
            record = runner.run(
                loaded,
                folder,
                watcher,
                command=shlex.join(["fedsim", *sys.argv[1:]]),
                earlier=earlier,
                should_stop=stop.is_set,
                start=start,
            )
    except KeyboardInterrupt:
        left = folder.reopen()
        if left is None:
            complain("Interrupted before the first result. The same command starts again.")
        else:
            rest = _rest(left, loaded)
            complain(f"Interrupted. Results so far are in {folder.path}; add --resume to continue with {rest}.")
        raise typer.Exit(130) from None
    return record, writing.build(folder.path)


def _rest(earlier: RunRecord, scenario: Scenario) -> str:
    """Return a description of a resumed run: complete arms are kept, the others start anew."""
    from fedsim.scenario import arms

    done, total = sum(arm.complete for arm in earlier.arms), len(list(arms(scenario)))
    return f"arm {done + 1} of {total}, from round 1 on" if done < total else "the report, since every arm is complete"


def _check_is_possible(loaded: Scenario, path: Path, overrides: Sequence[str], *, is_salted: bool) -> None:
    if is_salted:
        raise FedsimError("--check compares with figures of attacks without a salt: leave out --isolate and --salt.")
    refuse_check(loaded, path, overrides)


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
    from fedsim.report.document import to_terminal

    to_terminal(endings.figures(record), screen)
    for arm in record.arms:
        say(f"Hash of the trained model{'' if len(record.arms) == 1 else f', {arm.name}'}: {arm.model_hash}")
