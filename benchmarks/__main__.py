"""Run experiments, and keep the pages that show their figures true."""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from benchmarks import _figures, _results, _sources  # noqa: E402
from benchmarks._experiments import Budget, Cells, experiments, find  # noqa: E402
from benchmarks._results import Done, Result  # noqa: E402
from benchmarks._rows import Row  # noqa: E402
from benchmarks._sources import LoadedFiles  # noqa: E402
from fedsim.core.errors import FedsimError, did_you_mean  # noqa: E402

QUICK = 1.5  # minutes of an experiment that `--check` runs again


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 1 where a bound does not hold or figures moved, 2 for mistakes."""
    chosen = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if chosen.list:
            return _list()
        if chosen.stale:
            return _stale()
        if chosen.figures:
            return _write_figures()
        if chosen.check:
            return _check(chosen.name)
        if not chosen.name:
            raise FedsimError("name an experiment; python -m benchmarks --list shows all")
        return _run(chosen)
    except FedsimError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", help="the experiment")
    parser.add_argument(
        "--cells", default="", metavar="TEXT", help="measure the cell of this name, or those that contain it"
    )
    parser.add_argument("--seconds", type=float, help="processor seconds of an attack on an update")
    parser.add_argument("--full", action="store_true", help="the long version")
    parser.add_argument("--json", action="store_true", help="print JSON")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--list", action="store_true", help="show all experiments and what they take")
    others.add_argument(
        "--stale",
        action="store_true",
        help="show results older than the code they measure; exit code 1 if there are any",
    )
    others.add_argument("--figures", action="store_true", help="write tables and maps of results into the pages")
    others.add_argument(
        "--check",
        action="store_true",
        help=f"rerun the result that is named, or all of up to {QUICK:g} minutes, and compare",
    )
    return parser


def _list() -> int:
    known = experiments()
    width = max(map(len, known))
    for entry in known.values():
        print(f"{entry.name:{width}}  {entry.minutes:4g} min  {entry.summary}")
    return 0


def _stale() -> int:
    """Print the results that are older than the code they measure; the exit code is 1 if there are any."""
    known, is_stale = experiments(), False
    for name, result in _results.results().items():
        changed = _sources.changed_files(result.sources) if name in known else ["the experiment, which is gone"]
        if changed:
            is_stale = True
            print(f"{name}: {result.date}; since then changed: {', '.join(changed)}")
    return int(is_stale)


def _write_figures() -> int:
    for page in _figures.pages():
        text = page.read_text(encoding="utf-8")
        after = _figures.render_page(text, str(page.relative_to(_results.ROOT)))
        if after != text:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(_results.ROOT)}: written")
    for file, picture in _figures.maps():
        if not file.exists() or file.read_text(encoding="utf-8") != picture:
            file.write_text(picture, encoding="utf-8")
            print(f"{file.relative_to(_results.ROOT)}: written")
    return 0


def _check(chosen: str | None) -> int:
    """Rerun the result that is named, or all that are quick, and say what moved."""
    known = _results.results()
    if chosen is None:
        known = {name: result for name, result in known.items() if result.minutes <= QUICK}
    elif chosen in known:
        known = {chosen: known[chosen]}
    else:
        raise FedsimError(f"there is no result of '{chosen}'.{did_you_mean(chosen, known)}")
    has_moved, loaded = False, _sources.LoadedFiles()
    for name, before in known.items():
        entry = find(name)
        done = measure(entry.cells(before.budget), loaded, before.budget)
        after = _results.result_of(name, list(done.values()))
        lines = list(_results.changed_rows(before, after))
        print("\n".join([f"{name}: {f'{len(lines)} rows moved' if lines else 'as before'}", *lines]), flush=True)
        has_moved |= bool(lines)
    return int(has_moved)


def _run(chosen: argparse.Namespace) -> int:
    entry = find(chosen.name)
    if chosen.seconds is not None and entry.seconds is None:
        raise FedsimError(f"--seconds: '{entry.name}' bounds no attack, leave it out")
    budget = Budget(chosen.full, chosen.seconds if chosen.seconds is not None else entry.seconds)
    loaded = _sources.LoadedFiles()
    cells, file = entry.cells(budget), _results.WAITING / f"{entry.name}.jsonl"
    done = measure(cells, loaded, budget, chosen.cells, file)
    result = _results.result_of(entry.name, [done[name] for name in _choose_cells(cells, chosen.cells)])
    print(_results.as_json(result) if chosen.json else _figures.as_table(result.rows))
    if set(done) == set(cells):
        file = _results.write(_results.result_of(entry.name, list(done.values())), _results.RESULTS)
        print(f"Written: {file.relative_to(_results.ROOT)}", file=sys.stderr)
    return _judge(result)


def _judge(result: Result) -> int:
    """Name the rows whose bound does not hold, and return 1 where there is one."""
    broken = [row for row in result.rows if not row.holds]
    for row in broken:
        print(f"Not kept: {row.name}, {row.setting}: {row.value:.4g} {row.unit}, goal {row.must}", file=sys.stderr)
    return int(bool(broken))


def measure(
    cells: Cells, loaded: LoadedFiles, budget: Budget, text: str = "", file: Path | None = None
) -> dict[str, Done]:
    """Measure the chosen cells, except those that a file holds for unchanged code and the same budget.

    Args:
        cells: cells of an experiment.
        loaded: files that this process loads.
        budget: budget of the run.
        text: name of a cell, or a part of names.
        file: file of measured cells; None: keep none.

    Returns:
        These cells and all others of the file, in the experiment's order.

    Raises:
        FedsimError: no name contains the text.
    """
    done = _results.done_cells(file, budget) if file else {}
    waiting = [name for name in _choose_cells(cells, text) if name not in done]
    for number, name in enumerate(waiting, 1):
        print(f"[{number}/{len(waiting)}] {name}", file=sys.stderr, flush=True)
        begin, rows = _processor_seconds(), list[Row]()
        for row in cells[name]():
            print(f"  {row.setting}: {row.name} {_figures.cell_of(row)} {row.unit}", file=sys.stderr, flush=True)
            rows.append(row)
        minutes = (_processor_seconds() - begin) / 60
        done[name] = Done(
            sources=loaded.digests(), full=budget.full, seconds=budget.seconds, cell=name, minutes=minutes, rows=rows
        )
        if file:
            _results.keep(done[name], file)
    return {name: done[name] for name in cells if name in done}


def _choose_cells(cells: Cells, text: str) -> list[str]:
    chosen = [text] if text in cells else [name for name in cells if text in name]
    if not chosen:
        raise FedsimError(f"--cells: no cell's name contains '{text}'. Cells: {'; '.join(cells)}")
    return chosen


def _processor_seconds() -> float:
    """Return the processor seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.exit(main())
