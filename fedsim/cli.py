"""The command line. A user's mistake ends with one clear paragraph and exit code 2, never a traceback."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from fedsim import process

process.prepare()

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim import registry
from fedsim.errors import FedsimError

Group = Literal["attacks", "defenses", "components", "aggregators", "memberships", "models", "data", "scenarios"]
_KINDS: dict[str, registry.Kind] = {
    "attacks": "attack",
    "defenses": "defense",
    "components": "component",
    "aggregators": "aggregator",
    "memberships": "membership",
    "models": "model",
    "data": "dataset",
}

app = typer.Typer(
    help="Measures what federated learning leaks, and what it costs to stop it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
_out = Console()
_err = Console(stderr=True)


@app.command(
    epilog="Example: fedsim run scenarios/00_quickstart.toml --set attacks.0.iterations=500 --out results/short"
)
def run(
    scenario: Annotated[Path, typer.Argument(help="a scenario file (TOML)")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one value, as often as needed")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; results/NAME when absent")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="override the scenario's seed")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run that the folder holds")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with an interrupted run in that folder")] = False,
) -> None:
    """Run a scenario: train, observe, attack, score, and write record, arrays and report into one folder."""
    from fedsim import display, experiment, report
    from fedsim.scenario import load
    from fedsim.store import RunFolder

    sys.path.insert(0, str(Path.cwd()))
    overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
    loaded = load(scenario, overrides)
    if loaded.sweep is not None:
        raise FedsimError(f"{scenario} is a sweep of many runs. Use: fedsim sweep {scenario}")
    folder = RunFolder(out or Path("results") / scenario.stem)
    earlier = folder.reopen() if resume else None
    if earlier is None:
        folder.create(overwrite=overwrite or resume)
    command = shlex.join(["fedsim", *sys.argv[1:]])
    _say(f"{loaded.title}" + (f" (about {loaded.minutes:g} minutes on two cores)" if loaded.minutes else ""))
    try:
        with _asked_to_stop() as stop, display.watching(_out) as watcher:
            record = experiment.run(loaded, folder, watcher, command=command, earlier=earlier, should_stop=stop.is_set)
    except KeyboardInterrupt:
        _complain(f"Interrupted. What was found lies in {folder.path}; add --resume to go on.")
        raise typer.Exit(130) from None
    page = report.build(folder.path)
    if any(arm.attacks for arm in record.arms):
        _out.print(display.results(record))
    if any(arm.membership for arm in record.arms):
        _out.print(display.memberships(record))
    for line in display.guarantees(record):
        _say(line)
    for arm in record.arms:
        _say(f"Hash of the trained model{'' if len(record.arms) == 1 else f', {arm.name}'}: {arm.model_hash}")
    _say(f"Report: {page}")


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
    _say(f"{loaded.title}: {len(runs)} runs" + (f" (about {loaded.minutes:g} minutes)" if loaded.minutes else ""))
    command = shlex.join(["fedsim", *sys.argv[1:]])
    try:
        with folder.locked(), _asked_to_stop() as stop, display.counting(_out, len(runs)) as told:
            outcomes = sweeps.sweep(
                folder,
                runs,
                loaded.sweep or Sweep(),
                jobs=jobs or os.cpu_count() or 1,
                command=command,
                budget=_seconds(budget),
                on_outcome=told,
                should_stop=stop.is_set,
            )
    except KeyboardInterrupt:
        _complain(f"Interrupted. What is finished lies in {folder.path}; the same command goes on.")
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        _complain(f"Failed: {outcome.run.name}: {outcome.failure.why if outcome.failure else ''}")
    _say(f"{len(outcomes) - len(failed)} of {len(runs)} runs are finished in {folder.path}.")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: fedsim export results/my_sweep --csv")
def export(
    folder: Annotated[Path, typer.Argument(help="folder of a sweep or of a run")],
    as_csv: Annotated[bool, typer.Option("--csv", help="write table.csv")] = False,
    as_parquet: Annotated[bool, typer.Option("--parquet", help="write table.parquet; an extra")] = False,
) -> None:
    """Write all results as one table, a row for each attacked example; the columns are explained beside it."""
    from fedsim.sweep.export import write_csv, write_parquet

    if not (as_csv or as_parquet):
        raise FedsimError("say in which form: add --csv, --parquet, or both.")
    for wanted, write in ((as_csv, write_csv), (as_parquet, write_parquet)):
        if wanted:
            _say(f"Wrote {write(folder)}")


@app.command(name="list", epilog="Example: fedsim list attacks --json")
def list_(
    group: Annotated[Group | None, typer.Argument(help="what to list; everything when absent")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List attacks, defenses, components, aggregators, membership attacks, models, data sets and scenarios."""
    groups = [group] if group else [*_KINDS, "scenarios"]
    entries = [entry for name in groups for entry in _entries(name)]
    if as_json:
        _say(json.dumps(entries, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "name", "paper", "summary"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        table.add_row(*(Text(entry[key]) for key in ("group", "name", "paper", "summary")))
    _out.print(table)


@app.command(epilog="Example: fedsim show dropout-inversion")
def show(name: Annotated[str, typer.Argument(help="a method, as `fedsim list` names it")]) -> None:
    """Show what a method does, its paper, and its settings with their bounds."""
    for method in registry.find(name):
        where = f"{method.kind}, hook {method.hook}" if method.hook else method.kind
        _say(f"{method.name} ({where}): {method.summary}\n\n{method.doc}\n")
        if method.extra:
            _say(f"Needs the extra '{method.extra}': pip install 'fedsim-privacy[{method.extra}]'\n")
        table = Table(box=None, pad_edge=False)
        for heading in ("setting", "default", "expected", "meaning"):
            table.add_column(heading, overflow="fold")
        for row in _settings(method):
            table.add_row(*map(Text, row))
        _out.print(table)


@app.command(epilog="Example: fedsim doctor")
def doctor() -> None:
    """Say what is installed, which data is present, and how to get the rest."""
    from fedsim.doctor import examine

    table = Table(box=None, pad_edge=False)
    for heading in ("", "name", "found", "how to get it"):
        table.add_column(heading, overflow="fold")
    for finding in examine():
        mark = "ok" if finding.present else "missing"
        table.add_row(mark, *(Text(t) for t in (f"{finding.group} {finding.name}", finding.detail, finding.advice)))
    _out.print(table)


@app.command(epilog="Example: fedsim new attack my-attack")
def new(
    kind: Annotated[Literal["attack", "defense", "component"], typer.Argument(help="what to add")],
    name: Annotated[str, typer.Argument(help="lower-case words joined by hyphens")],
) -> None:
    """Write the one file of a new method, ready to run and to change."""
    from fedsim.templates import write_new

    path = write_new(kind, name, Path.cwd())
    _say(f"Wrote {path.relative_to(Path.cwd())}. It is listed already: fedsim show {name}")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except FedsimError as error:
        _complain(str(error))
        sys.exit(error.exit_code)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Yield what Ctrl-C or a termination sets; the second one does not wait for the end of a step.

    An interrupt that is raised just anywhere can be lost: code that Python calls back from C swallows it.
    """
    event = threading.Event()

    def handle(_number: int, _frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str | None) -> float | None:
    """Return a span like ``20m`` in seconds."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
        raise FedsimError(f"--budget is '{text}', expected a number with s, m or h, for example 20m.")
    return float(number) * _UNITS[unit]


def _entries(group: str) -> list[dict[str, str]]:
    if group == "scenarios":
        return _scenarios()
    return [
        {"group": group, "name": m.name, "summary": m.summary, "paper": m.paper, "hook": m.hook or ""}
        for m in registry.methods(_KINDS[group]).values()
    ]


def _scenarios() -> list[dict[str, str]]:
    import tomllib

    found: list[dict[str, str]] = []
    for path in sorted(Path("scenarios").glob("*.toml")):
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        found.append(
            {"group": "scenarios", "name": str(path), "summary": str(raw.get("title", "")), "paper": "", "hook": ""}
        )
    return found


def _settings(method: registry.Method) -> list[tuple[str, str, str, str]]:
    rows: list[tuple[str, str, str, str]] = []
    properties = method.config.model_json_schema().get("properties", {})
    for name, field in method.config.model_fields.items():
        default = (
            "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True), default=str)
        )
        rows.append((name, default, _expected(properties.get(name, {})), field.description or ""))
    return rows


def _expected(schema: dict[str, object]) -> str:
    if "enum" in schema:
        return f"one of {schema['enum']}"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if isinstance(schema.get(key), (int, float))]
    return " ".join([str(schema.get("type", "")), *limits]).strip()


def _say(text: str) -> None:
    _out.print(Text(text), soft_wrap=True)


def _complain(text: str) -> None:
    _err.print(Text(text), soft_wrap=True)


if __name__ == "__main__":
    main()
