"""The table of realism: what `auto` recovers of present-day networks, fresh and trained, and what nobody could.

    python -m benchmarks.realism [--full] [--only TEXT] [--rows FILE] [--seconds S] [--vit FILE] [--ceilings]

Each cell is attacked as an audit attacks, for so many seconds an update on one core: attacks that search nothing, the
ideal attacker, then one search. The state is the audit's: an update that was not recovered withstood only where a
search converged, or where the ideal attacker would recover nothing either; else it is undecided. Labels are inferred,
masks unknown. One factor is changed at a time around two centres (`benchmarks/_realism_cells.py`). With ``--rows``
rows are appended to a file as they come, and those that it holds are not measured again. CIFAR-10 is the pack or folder
that FEDSIM_CIFAR10 names; the first run trains the networks, once, and keeps them in the cache.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable, Iterable, Iterator, Sequence  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from benchmarks._realism_cells import CELLS, Cell, cells_of  # noqa: E402
from benchmarks._victims import KNOWN, kept_weights, trained_weights, world_of  # noqa: E402
from benchmarks.trained_victims import accuracy  # noqa: E402
from fedsim.audit import evidence  # noqa: E402
from fedsim.audit.inspecting import Inspector  # noqa: E402
from fedsim.audit.record import Inspection  # noqa: E402
from fedsim.core.errors import FedsimError  # noqa: E402
from fedsim.core.types import Tensors, WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.evidence import reach, recovered  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402
from fedsim.metrics.success import Rule  # noqa: E402
from fedsim.record import Ceiling, Interval, VictimRecord  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402
from fedsim.threat.ceiling import ceiling_of  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

VICTIMS = 3
_SHOWN = (
    "network",
    "weights, accuracy",
    "B",
    "sends",
    "dropout",
    "images identified; updates with one",
    "exact",
    "PSNR: median, best",
    "ideal attacker",
    "steps; seconds (of a processor)",
    "state",
    "by",
)

Row = dict[str, Any]


def measured(cell: Cell, victims: int, seconds: float | None = None) -> Row:
    """Return the row of a cell.

    Args:
        cell: what is attacked.
        victims: number of updates.
        seconds: of an attack; those of the network when absent.
    """
    world, budget = world_of(cell.tables()), seconds or cell.network.seconds
    weights = weights_of(cell)
    begin = time.process_time()
    inspector = (_Unasking if cell.network.is_large else Inspector)(KNOWN, {}, lambda _what: None)
    inspection = _attacked(inspector, world, weights, victims, budget)
    spent = (time.process_time() - begin) / victims
    right = accuracy(world, weights) if cell.network.is_judged else None
    named = {**_named(cell), "accuracy": right, "budget": budget, "processor seconds": spent}
    return {**named, **_figures(inspection, world)}


def ceiling(cell: Cell) -> Row:
    """Return how far the ideal attacker comes on the first update of a cell, computed exactly whatever the time."""
    world, weights = world_of(cell.tables()), weights_of(cell)
    victim, scoring = _victim(world, weights, 0), world.scenario.scoring
    begin = time.process_time()
    ceiling_of_update = ceiling_of(victim).ceiling
    reached = reach([ceiling_of_update], Rule.of(scoring.metric, scoring.threshold))
    return {
        "cell": cell.words,
        "ideal attacker": reached.in_words if reached else "",
        "rank": f"{ceiling_of_update.rank} of {ceiling_of_update.inputs}",
        "processor seconds": time.process_time() - begin,
    }


def weights_of(cell: Cell) -> Tensors:
    """Return the weights that the clients receive; trained ones come from the cache."""
    if not cell.steps:
        return world_of(cell.tables()).models.first_weights
    lesson = cell.lesson()
    description = [{**lesson, "data": dict(cell.network.data)}, cell.steps]
    return torch.load(
        kept_weights("realism", description, lambda: trained_weights(world_of(lesson), cell.steps)), weights_only=True
    )


def groups(rows: Iterable[Row]) -> list[Row]:
    """Return how many updates of each group gave an image away, with the 95 % interval of Wilson, and their states."""
    table = list[Row]()
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(f"{row['group']}, {row['weights']}, B = {row['batch']}", []).append(row)
    for name, of_group in named.items():
        n = sum(row["updates"] for row in of_group)
        hits, whole = (sum(row[kind] for row in of_group) for kind in ("opened", "exact updates"))
        states = Counter(row["state"] for row in of_group)
        table.append(
            {
                "group": name,
                "cells": len(of_group),
                "updates": n,
                "an image identified": _share(wilson(hits, n)),
                "every image exact": _share(wilson(whole, n)),
                **{state: states[state] for state in ("recovered", "withstood", "undecided")},
            }
        )
    return table


class _Unasking(Inspector):
    """Attacks without asking the ideal attacker, so that nothing that it does not recover withstood."""

    def _ceiling(self, victim: Victim, seconds: float, name: str) -> Ceiling:
        return Ceiling(undefined="not asked of so large a model")


def _attacked(inspector: Inspector, world: World, weights: Tensors, victims: int, seconds: float) -> Inspection:
    """Attack one update after the other, each for all of the seconds."""
    updates = [_victim(world, weights, client) for client in range(victims)]
    iterations, inspection = inspector.iterations(world, seconds), None
    for number in range(victims):
        inspection = inspector.inspect(
            world, iter(updates), number + 1, iterations, seconds, "updates", before=inspection
        )
    assert inspection is not None
    return inspection


def _victim(world: World, weights: Tensors, client: int) -> Victim:
    update, truth = local_training(world, weights, 1, client)
    return Victim(world, WireEntry(1, client, weights, update), truth)


def _named(cell: Cell) -> Row:
    client, network = cell.client, cell.network
    return {
        "cell": cell.words,
        "group": network.group,
        "network": network.words,
        "weights": client.state,
        "batch": client.batch_size,
        "sends": client.sends,
        "dropout": client.dropout,
    }


def _figures(inspection: Inspection, world: World) -> Row:
    victims, scoring = inspection.victims, world.scenario.scoring
    rule = Rule.of(scoring.metric, scoring.threshold)
    items = [item for victim in victims for item in victim.scores]
    return {
        "updates": len(victims),
        "images": len(items),
        "rule": rule.in_words(items[0].values if items else {}),
        "identified": sum(rule.has_succeeded(item) for item in items),
        "exact": sum(item.values["exact_pixels"] > 0 for item in items),
        "opened": sum(recovered(victim, rule) > 0 for victim in victims),
        "exact updates": sum(
            bool(victim.scores) and all(i.values["exact_pixels"] for i in victim.scores) for victim in victims
        ),
        "PSNR": [item.values["psnr"] for item in items],
        "ideal attacker": evidence.ideal(inspection, scoring),
        "searched": [victim.iterations for victim in victims],
        "converged": evidence.converged(inspection),
        "seconds": [victim.seconds for victim in victims],
        "state": evidence.state(inspection, scoring),
        "doubts": list(evidence.doubts(inspection, scoring)),
        "by": [_winner(victim) for victim in victims],
    }


def _winner(victim: VictimRecord) -> str:
    """Return the attack whose guess was kept, or why there is none."""
    if victim.failure is not None:
        return f"failed: {victim.failure}"
    first = next((note for note in victim.notes if note.startswith("won: ")), "")
    return first.removeprefix("won: ").partition(",")[0] or victim.stopped


def _share(interval: Interval) -> str:
    low, high = 100 * (interval.low or 0.0), 100 * (1.0 if interval.high is None else interval.high)
    return f"{round(interval.value * interval.n)} of {interval.n} [{low:.0f}, {high:.0f}]%"


def _shown(row: Row) -> list[str]:
    """Return the cells of a row of the table."""
    right, psnr = row["accuracy"], row["PSNR"]
    by = ", ".join(
        f"{name} ({count})" if len(set(row["by"])) > 1 else name for name, count in Counter(row["by"]).items()
    )
    rule = "" if row["rule"] == "identified" else f", by {row['rule']}"
    seconds, images = statistics.median(row["seconds"]), row["images"]
    return [
        row["network"],
        row["weights"] if right is None else f"{row['weights']}, {right:.1%}",
        str(row["batch"]),
        row["sends"],
        f"{row['dropout']:g}",
        f"{row['identified']} of {images}; {_share(wilson(row['opened'], row['updates']))}{rule}",
        f"{row['exact']} of {images}",
        f"{statistics.median(psnr):.1f}, {max(psnr):.1f} dB" if psnr else "no guess",
        row["ideal attacker"],
        f"{statistics.median(row['searched']):g}; {seconds:.0f} ({row['processor seconds']:.0f})",
        row["state"],
        by,
    ]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in rows)])


def rows_of(cells: Iterable[Cell], measure: Callable[[Cell], Row], key: str, file: Path | None) -> Iterator[Row]:
    """Yield the row of each cell, from the file where it is there, else measured and added to it.

    Args:
        cells: what is measured.
        measure: gives a cell's row.
        key: what is measured of a cell, in words: with those of the cell the name of a row in the file.
        file: one JSON object a line; None to keep nothing.
    """
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    known = {row["key"]: row for row in map(json.loads, lines)}
    for cell in cells:
        name = f"{cell.words}: {key}"
        if name not in known:
            known[name] = {"key": name, **measure(cell)}
            if file is not None:
                with file.open("a") as out:
                    out.write(json.dumps(known[name]) + "\n")
            print(json.dumps(known[name]), file=sys.stderr, flush=True)
        yield known[name]


def main() -> None:
    """Print a row a cell, then the groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every cell (hours)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose words contain this text")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="where rows are kept, one JSON object a line")
    parser.add_argument("--seconds", type=float, help="of the attack on an update; absent: what the cells say")
    parser.add_argument("--ceilings", action="store_true", help="the ideal attacker, exactly, in place of attacks")
    parser.add_argument("--victims", type=int, default=VICTIMS, help="updates a cell")
    parser.add_argument("--vit", type=Path, metavar="FILE", help="weights of torchvision's vit_b_16: attacked too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = (*CELLS, *(cells_of(options.vit) if options.vit else ()))
    cells = [cell for cell in every if options.only in cell.words and (options.full or not cell.is_long)]
    if not cells:
        parser.error(f"no cell's words contain '{options.only}'{'' if options.full else '; --full has more cells'}")
    try:
        print(_ceilings(cells, options) if options.ceilings else _attacks(cells, options))
    except FedsimError as error:
        parser.error(str(error))


def _ceilings(cells: Sequence[Cell], options: argparse.Namespace) -> str:
    ceilings = list(rows_of(cells, ceiling, "ceiling", options.rows))
    if options.json:
        return json.dumps(ceilings, indent=1)
    shown = [{name: str(figure) for name, figure in line.items() if name != "key"} for line in ceilings]
    return _table(tuple(shown[0]), [tuple(line.values()) for line in shown])


def _attacks(cells: Sequence[Cell], options: argparse.Namespace) -> str:
    key = f"{options.victims} updates, {f'{options.seconds:g} s' if options.seconds else 'own seconds'}"
    rows = list(rows_of(cells, partial(measured, victims=options.victims, seconds=options.seconds), key, options.rows))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    rows.sort(key=lambda row: networks.index(row["network"]))
    summed = groups(rows)
    if options.json:
        return json.dumps({"cells": rows, "groups": summed}, indent=1)
    table = _table(_SHOWN, map(_shown, rows))
    return f"{table}\n\n{_table(tuple(summed[0]), ([str(figure) for figure in row.values()] for row in summed))}"


if __name__ == "__main__":
    main()
