"""Write an audit as one offline page: verdict, attacker, pictures, members, defenses, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsim.audit import evidence, planted, screen, verdict
from fedsim.audit.adopting import adopted
from fedsim.audit.record import ARRAYS, PAGE, AuditRecord, Inspection
from fedsim.core.glossary import TERMS
from fedsim.core.plain import printable
from fedsim.metrics.success import Rule
from fedsim.record import ItemScore, VictimRecord
from fedsim.record.store import write_whole
from fedsim.report import look
from fedsim.report.wall import data_address, encode

MOST = 8  # pictures in a row
_COLOURS = 3


@dataclass(frozen=True)
class Picture:
    """One picture as a data URL, its description, and its score."""

    source: str
    alt: str
    score: str = ""
    is_recovered: bool = False


@dataclass(frozen=True)
class Row:
    """Pictures side by side."""

    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Wall:
    """Originals above guesses: the first images of the first updates, without selection."""

    title: str
    rows: tuple[Row, ...]
    of: int


def write(record: AuditRecord, folder: Path) -> None:
    """Write the page from a record and the pictures in its folder."""
    arrays = _read(folder / ARRAYS)
    page = look.render(
        "fedsim.audit",
        "template.html.j2",
        record=record,
        broken=verdict.broken(record),
        unjudged=verdict.unjudged(record),
        unused=verdict.unused(record),
        sentence=verdict.sentence(record),
        best=verdict.recommend(record),
        adopted=adopted,
        ranked=verdict.rank(record),
        broken_by=verdict.broken_by,
        undecided=verdict.undecided,
        kept=screen.kept,
        weak_control=verdict.weak_control(record),
        walls=list(_walls(record, arrays)),
        defended=_defend(record, arrays),
        interval=screen.interval,
        told=screen.told,
        headline=screen.headline(record.noun),
        recovered=screen.recovered,
        searched=screen.searched,
        state=evidence.state,
        ideal=evidence.ideal,
        secret_rows=screen.secret_rows,
        remembers=planted.sentence_of,
        member_row=screen.member_row,
        group_rows=screen.group_rows,
        winner=screen.winner,
        rule=screen.rule(record.plan.scoring, record.noun),
        texts=list(_texts(record)),
        most=MOST,
        glossary=TERMS,
    )
    write_whole(folder / PAGE, printable(page).encode())


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _walls(record: AuditRecord, arrays: Mapping[str, np.ndarray]) -> Iterator[Wall]:
    """Yield a wall for every batch size that has pictures."""
    for inspection in record.inspections:
        guesses = tuple(_pictures(record, inspection, arrays, "guesses"))
        if not guesses:
            continue
        rows = [Row("recovered by the attacker", guesses)]
        if inspection.is_scored:
            rows.insert(0, Row("original", tuple(_pictures(record, inspection, arrays, "originals"))))
            known = tuple(_pictures(record, inspection, arrays, "known"))
            rows += [Row("known to the ideal attacker (white: all)", known)] if known else []
        title = "captured update" if record.plan.is_captured else f"batch {inspection.batch_size}"
        yield Wall(title, tuple(rows), _count(inspection, arrays))


def _defend(record: AuditRecord, arrays: Mapping[str, np.ndarray]) -> Wall | None:
    """Return the same images without and with every defense, except defenses that draw other batches."""
    control = record.control
    if control is None or not any(victim.arrays for victim in control.victims):
        return None
    rows = [
        Row("original", tuple(_pictures(record, control, arrays, "originals"))),
        Row("no further defense", tuple(_pictures(record, control, arrays, "guesses"))),
    ]
    for trial in record.trials:
        if trial.inspection is not None and trial.sampling == "passes":
            rows.append(Row(trial.name, tuple(_pictures(record, trial.inspection, arrays, "guesses"))))
    title = f"batch {control.batch_size}, without and with each defense"
    return Wall(title, tuple(row for row in rows if row.pictures), _count(control, arrays))


def _texts(record: AuditRecord) -> Iterator[tuple[str, str, str]]:
    """Yield where the first texts were attacked, each text, and the guess of it."""
    for own in record.inspections:
        found = [(victim, item) for victim in own.victims for item in victim.scores if item.text is not None]
        for victim, item in found[:MOST]:
            yield f"batch {own.batch_size}, update {victim.round}", item.text or "", item.guess or ""


def _count(inspection: Inspection, arrays: Mapping[str, np.ndarray]) -> int:
    return sum(len(arrays.get(f"{victim.arrays}/guesses", ())) for victim in inspection.victims)


def _pictures(
    record: AuditRecord, inspection: Inspection, arrays: Mapping[str, np.ndarray], kind: str
) -> Iterator[Picture]:
    shown = 0
    for number, victim in enumerate(inspection.victims, 1):
        for index, image in enumerate(arrays.get(f"{victim.arrays}/{kind}", ())):
            if shown == MOST:
                return
            shown += 1
            yield _picture(record, victim, number, index, image, kind)


def _picture(
    record: AuditRecord, victim: VictimRecord, number: int, index: int, image: np.ndarray, kind: str
) -> Picture:
    where = f"update {number}, image {index + 1}"
    source = data_address("image/png", encode(_in_colour(image)))
    if kind == "known":
        return Picture(source, f"What the ideal attacker knows of {where}")
    if kind == "originals" or index >= len(victim.scores):
        return Picture(source, f"{'Original' if kind == 'originals' else 'Guess'} of {where}")
    item: ItemScore = victim.scores[index]
    rule = Rule.of(record.plan.scoring.metric, record.plan.scoring.threshold)
    told = [own.tell(item.values[own.name]) for own in rule.declared.values() if own.spread and own.name in item.values]
    return Picture(source, f"Guess of {where}: {', '.join(told)}", told[0] if told else "", rule.has_succeeded(item))


def _in_colour(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) from (C, H, W); with neither 1 nor 3 channels, the first one in grey."""
    clipped = np.clip(np.nan_to_num(image), 0.0, 1.0)
    channels = clipped if len(clipped) == _COLOURS else np.repeat(clipped[:1], _COLOURS, axis=0)
    return channels.transpose(1, 2, 0)
