"""Report page of a run: attack results, their uncertainty, and the command to repeat the run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fedsim.core.glossary import TERMS
from fedsim.record import QuestionInfo, RunRecord
from fedsim.report import ceilings, figures, image_grid
from fedsim.report.banners import banners
from fedsim.report.brief import all_statements, summarise_run
from fedsim.report.document import (
    Block,
    Card,
    Cards,
    Code,
    Definitions,
    Document,
    Figures,
    Fold,
    ImageGrid,
    ImageGrids,
    Paragraph,
    Picture,
    Section,
    Statements,
    Table,
    Verdict,
    note,
    paragraph,
)
from fedsim.report.sections.environment import environment_facts
from fedsim.report.sections.questions import HOW, arm_paragraph, question_blocks
from fedsim.report.tables.attacks import attackers, attacks_of, diagnoses, has_ceilings, readings, results
from fedsim.report.tables.clients import ArmParticipation, Ownership, attendances, failures, ownerships
from fedsim.report.tables.findings import group_by_arm, questions
from fedsim.report.tables.guarantees import guarantees
from fedsim.report.tables.metric_tables import metric_tables
from fedsim.report.verdict import RunJudge

_OPEN_ROWS = 24  # a longer diagnosis is folded
_OF_IMAGES = (
    "Images are de-normalised and clipped to [0, 1] before scoring. PSNR is at most 160 dB; SSIM uses an 11 x 11 "
    "Gaussian window (sigma 1.5), smaller for images below 11 pixels. When an update holds several images, guesses are "
    "matched to originals by least squared error."
)
_OF_TEXTS = (
    "Each sentence is compared with the guess that is matched to it, by the assignment with "
    "the most correct tokens. Tokens count at their position; ROUGE-1, ROUGE-2 and ROUGE-L "
    "compare words, pairs of words and the longest common subsequence of words, as the "
    "harmonic mean of recall and precision. A planted secret is read when its number or "
    "address stands in any guess."
)
_IDEAL = (
    " The ideal attacker runs no search: its value is the best possible estimate of the same "
    "{noun}s from the update, to first order at the truth (median PSNR, and the number that "
    "its guess would recover). It is no guarantee."
)
_CEILINGS = (
    "Attack success with intervals, and the upper bound from the guarantee of the whole run "
    "(black bars): for reconstructions exp(ε) κ + δ, with κ the share of images that their own "
    "mean recovers, at least 1 / (images + 1); for membership exp(ε) FPR + δ, or its mirror. "
    "The gap is room for stronger attacks."
)


def page_of(
    record: RunRecord, arrays: Mapping[str, np.ndarray], judge: RunJudge, walls: Sequence[ImageGrid]
) -> Document:
    """Return the page of a run; `walls` are its image grids."""
    return Document(
        title=str(record.plan.get("title", "Untitled run")),
        kicker=f"fedsim report · {record.started} · {record.status}",
        lead=str(record.plan.get("description", "")),
        banners=tuple(banners(record, judge)),
        sections=tuple(_sections(record, arrays, judge, walls)),
        footer="Made by fedsim. Attacks give lower bounds on leakage: a failed attack is no guarantee.",
    )


def _sections(
    record: RunRecord, arrays: Mapping[str, np.ndarray], judge: RunJudge, walls: Sequence[ImageGrid]
) -> Iterator[Section]:
    sentences, texts = all_statements(record, judge), readings(record, judge)
    has_texts = bool(texts.groups[0].rows)
    yield Section("Verdict", (_verdict(record, any(sentence.level == "recovered" for sentence in sentences)),))
    if walls or (attacks_of(record) and not has_texts):
        yield Section("Originals and each attack's reconstructions", tuple(_wall(record, judge, walls)), "wall")
    if sentences:
        strongest = (
            "The attack named is the strongest without granted dropout masks. Another attack "
            "may recover examples that no attack recovered here."
        )
        yield Section("Arm by arm", (Statements(tuple(sentences)), note(strongest)), "arms")
    if has_texts:
        yield Section("What was read", (texts,), "readings")
    yield Section("Attacks by arm", tuple(_results(record, judge, has_texts=has_texts)), "results")
    for number, table in enumerate(metric_tables(record, judge), 1):
        yield Section(table.title, (table,), f"table-{number}")
    bounded = guarantees(record)
    if bounded.groups:
        yield Section("What was guaranteed", tuple(_guarantees(record, arrays, judge, bounded)), "guarantees")
    yield Section("Attackers and their knowledge", (_threat(record),), "threat", is_folded=True)
    yield _charts(
        "How many images are at least this good",
        "exceedance",
        figures.exceedance(record, judge),
        "Means hide the worst case. Each curve gives the share of images with a PSNR above t: "
        "the further right it reaches, the more an attack recovered.",
        "No attack gave an image to score.",
    )
    yield _charts(
        "Did the searches converge?",
        "curves",
        figures.attack_curves(record),
        "The attack's own objective over its iterations, a line per victim, logarithmic, on "
        "the same axes for every arm. A curve that still falls at its end belongs to an attack "
        "that was stopped early.",
        "No search left a history.",
    )
    for question in questions(record):
        yield Section(question.title, tuple(_question(record, question, judge)), f"question-{question.name}")
    yield from _clients(record)
    yield _charts(
        "Utility per round", "accuracy", figures.utility(record, judge), "", "No round was evaluated on the test set."
    )
    missing = failures(record)
    nothing = paragraph("Nothing: every client took part and every attack gave a guess.")
    yield Section("Left out, and why", (missing if missing.groups[0].rows else nothing,), "failures")
    yield Section("Diagnosis of every search", tuple(_diagnosis(record, judge)), "diagnosis", is_folded=True)
    yield Section("Run it again", tuple(_reproduce(record, judge)), "reproduce", is_folded=True)
    yield Section("What the words mean", (Definitions.of(TERMS),), "words", is_folded=True)


def _charts(title: str, place: str, pictures: Sequence[Picture], text: str, nothing: str) -> Section:
    """Return a folded section with a text and charts, or with the sentence `nothing` if no chart exists."""
    introduction = (paragraph(text),) if text else ()
    blocks = (*introduction, Figures(tuple(pictures))) if pictures else (paragraph(nothing),)
    return Section(title, blocks, place, is_folded=True)


def _verdict(record: RunRecord, is_leaking: bool) -> Block:
    if not record.arms:
        return paragraph("No arm of this run was recorded, so nothing can be said about privacy.")
    outcome, trust = summarise_run(record)
    return Verdict("recovered" if is_leaking else "", outcome, (paragraph(trust),))


def _wall(record: RunRecord, judge: RunJudge, walls: Sequence[ImageGrid]) -> Iterator[Block]:
    if not walls:
        yield paragraph("No pictures were stored with this run.")
        return
    yield ImageGrids(tuple(walls), hides="Hide the originals")
    yield note(
        "The same examples in every row; under each guess its distance. Framed and ticked by "
        f"this rule: {judge.rule(*attacks_of(record))}. {image_grid.TICKS} The choice is fixed: "
        f"all examples up to {image_grid.MOST}, of more the examples at percentiles 0, 25, 50, "
        "75 and 100 of the first attack's scores in the first arm."
    )
    if image_grid.has_public(walls):
        yield note(image_grid.PUBLIC)


def _results(record: RunRecord, judge: RunJudge, *, has_texts: bool) -> Iterator[Block]:
    if not record.arms:
        yield paragraph("No arm was recorded.")
        return
    attacks = attacks_of(record)
    noun = judge.deciding_metric(*attacks).noun
    ideal = _IDEAL.format(noun=noun) if has_ceilings(record) else ""
    yield paragraph(
        f"Each value is followed by its {100 * judge.scoring.confidence:g}% interval over its n "
        f"victims. A{'n' if noun[0] in 'aeiou' else ''} {noun} counts as a success by this "
        f"rule: {judge.rule(*attacks)}. A control is an attack that ought to succeed.{ideal}"
    )
    yield results(record, judge)
    metrics = " ".join(f"{column.metric.title}: {column.metric.meaning}." for column in judge.columns(attacks))
    method = (
        f"{metrics} {_OF_TEXTS if has_texts else _OF_IMAGES} Success rates have Wilson intervals at the number of "
        f"victims; other intervals are percentile bootstraps that resample victims ({judge.scoring.resamples} "
        "resamples). A victim on which an attack failed is in no figure: a failure is no evidence."
    )
    masks = "" if has_texts else " Masks count only where some gradient depends on them."
    yield Fold(HOW, (paragraph(method.lstrip() + masks),))
    yield note(f"A row per arm, attack, victim and {noun}: ", Code("scores.csv"))


def _guarantees(record: RunRecord, arrays: Mapping[str, np.ndarray], judge: RunJudge, table: Table) -> Iterator[Block]:
    yield paragraph(
        "Upper bounds on the information that the observers named in the last column can learn "
        "about a single unit, under any attack. The attacks above give lower bounds."
    )
    yield table
    if pictures := figures.epsilons(ceilings.marks(record, arrays, judge)):
        yield paragraph(_CEILINGS)
        yield Figures(tuple(pictures))


def _threat(record: RunRecord) -> Cards:
    model = Card("Threat model", tuple(map(paragraph, record.threat_model)), "None was recorded.")
    return Cards((model, Card("Attacks", attackers(record), "No attack was tried.")))


def _question(record: RunRecord, question: QuestionInfo, judge: RunJudge) -> Iterator[Block]:
    yield from question_blocks(record, question, judge.scoring.confidence)
    tables = [arm.items.get(finding.items, {}) for arm, found in group_by_arm(record, question) for finding in found]
    if any("fpr" in table for table in tables):
        yield Figures(tuple(figures.rocs(record)))
    yield note("One row a figure: ", Code("findings.csv"))


def _clients(record: RunRecord) -> Iterator[Section]:
    if shares := ownerships(record):
        yield Section("Who owns what", tuple(_ownership(record, shares)), "ownership", is_folded=True)
    if turnouts := attendances(record):
        yield Section("Who took part", tuple(_participation(record, turnouts)), "participation", is_folded=True)


def _ownership(record: RunRecord, shares: Sequence[Ownership]) -> Iterator[Block]:
    for share in shares:
        shown = len(share.partition.class_counts)
        text = share.sentence + (f" The picture shows the first {shown}." if shown < share.partition.clients else "")
        yield arm_paragraph(record, share.arm, text) if len(shares) > 1 else paragraph(text)
    yield Figures(tuple(figures.ownership(shares)))


def _participation(record: RunRecord, turnouts: Sequence[ArmParticipation]) -> Iterator[Block]:
    for turnout in turnouts:
        yield arm_paragraph(record, turnout.arm, turnout.sentence)
    yield Figures(tuple(figures.participation(turnouts)))


def _diagnosis(record: RunRecord, judge: RunJudge) -> Iterator[Block]:
    tables = diagnoses(record, judge)
    if not tables:
        yield paragraph("No search ended with a guess.")
        return
    yield paragraph(
        "The objective at the attack's guess against its value at the true batch and masks, "
        "which the scorer computed: an end above the truth means that the search or its "
        "knowledge was insufficient; an end as low with another image means that this "
        "objective does not identify the image."
    )
    for name, table in tables:
        rows = len(table.groups[0].rows)
        yield Fold(f"{name} ({rows})", (table,), is_open=rows <= _OPEN_ROWS)


def _reproduce(record: RunRecord, judge: RunJudge) -> Iterator[Block]:
    yield Code(record.environment.command)
    yield Definitions(tuple(_facts(record, judge)))
    scenario = json.dumps(record.plan, indent=2, ensure_ascii=False)
    yield Fold("Scenario as it was run", (Code(scenario, "Scenario"),))


def _facts(record: RunRecord, judge: RunJudge) -> Iterator[tuple[str, Paragraph]]:
    is_cut = record.status == "interrupted"
    yield "Status", paragraph(f"{record.status}{', the record ends where the run did' if is_cut else ''}")
    yield "Start and end", paragraph(f"{record.started} to {record.ended or 'no end recorded'}")
    yield "Seed", paragraph(str(judge.seed))
    yield "Scenario hash", paragraph(Code(record.digest))
    yield from environment_facts(record.environment)
    for arm in record.arms:
        yield f"Model of {arm.name}", paragraph(Code(arm.model_hash))
