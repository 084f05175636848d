"""One self-contained page about a run: what the attacks recovered, how sure that is, and how to run it again."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fedsim.errors import FedsimError
from fedsim.record import RunRecord
from fedsim.report import figures, tables, verdict, wall

__all__ = ["build"]


def build(run_dir: Path) -> Path:
    """Write the report of a run beside its record.

    Reads `record.json` and, when it is there, `arrays.npz`. Writes `figures/` (each picture as PNG, its data as
    CSV), `scores.csv` and last `report.html`, every file whole or not at all. Nothing in it refers to another file
    or to the network.

    Args:
        run_dir: folder of the run.

    Returns:
        The path of `report.html`.

    Raises:
        FedsimError: the record is missing or does not follow the schema.
    """
    record = _read_record(run_dir / "record.json")
    judge = verdict.Judge.of(record)
    walls = wall.walls(record, _read_arrays(run_dir / "arrays.npz"), judge)
    curves = figures.attack_curves(record)
    exceedance = figures.exceedance(record, judge)
    accuracy = figures.accuracy(record)
    sheets = [figures.wall_sheet(pictures, number) for number, pictures in enumerate(walls, 1)]
    folder = run_dir / "figures"
    folder.mkdir(exist_ok=True)
    for picture in (*curves, *exceedance, *accuracy, *sheets):
        _write(folder / f"{picture.name}.png", picture.png)
        _write(folder / f"{picture.name}.csv", _csv(picture.columns, picture.rows))
    _write(run_dir / "scores.csv", _csv(tables.SCORE_COLUMNS, tables.scores(record, judge)))
    page = _page(record, judge, walls=walls, sheets=sheets, curves=curves, exceedance=exceedance, accuracy=accuracy)
    return _write(run_dir / "report.html", page.encode())


def _page(record: RunRecord, judge: verdict.Judge, **pictures: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - keeps `import fedsim.report` cheap

    environment = Environment(
        loader=PackageLoader("fedsim.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2").render(
        record=record,
        title=str(record.scenario.get("title", "Untitled run")),
        description=str(record.scenario.get("description", "")),
        scenario=json.dumps(record.scenario, indent=2, ensure_ascii=False),
        judge=judge,
        banners=verdict.banners(record, judge),
        sentences=verdict.sentences(record, judge),
        attackers=tables.attackers(record),
        results=tables.results(record, judge),
        diagnoses=tables.diagnoses(record, judge),
        left_out=tables.left_out(record),
        most=wall.MOST,
        **pictures,
    )


def _read_record(path: Path) -> RunRecord:
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise FedsimError(f"there is no {path.name} in {path.parent}: is it the folder of a run?") from error
    except ValidationError as error:
        raise FedsimError(f"{path} does not follow the record's schema: {error}") from error


def _read_arrays(path: Path) -> wall.Arrays:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _write(path: Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
