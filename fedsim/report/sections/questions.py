"""Section of a question: comparison, remarks on arms, failed controls, findings, single examples and method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedsim.record import QuestionInfo, Record
from fedsim.report.document import Banner, Block, Fold, Paragraph, Strong, paragraph
from fedsim.report.tables.findings import doubts, examples, findings_table, group_by_arm

HOW = "How these numbers are made"


def question_blocks(record: Record[Any, Any], question: QuestionInfo, confidence: float) -> Iterator[Block]:
    """Yield the findings of all arms about a question, with their explanation.

    Args:
        record: record with findings about the question.
        question: description of the question.
        confidence: coverage of the intervals.
    """
    arms = group_by_arm(record, question)
    of_question = [finding for _, findings in arms for finding in findings]
    roles = (
        ' A "positive-control" knows more than an attack; a "negative-control" has nothing to find.'
        if any(finding.role not in ("attack", "context") for finding in of_question)
        else ""
    )
    yield paragraph(f"{question.summary}{roles} Each value is followed by its {100 * confidence:g}% interval.")
    for arm, findings in arms:
        yield from (arm_paragraph(record, arm.name, finding.note) for finding in findings if finding.note)
    for arm, findings in arms:
        if doubt := doubts(findings):
            prefix = f"{arm.name}: " if len(record.arms) > 1 else ""
            yield Banner("caution", "A control failed", f"{prefix}{doubt} Do not rely on its results.")
    yield findings_table(record, question)
    tables = list(examples(record, question))
    for name, table in tables:
        yield Fold(f"Single examples{f': {name}' if len(tables) > 1 else ''}", (table,))
    if question.method:
        yield Fold(HOW, (paragraph(question.method),))


def arm_paragraph(record: Record[Any, Any], names: str, text: str) -> Paragraph:
    """Return a paragraph that starts with the names of its arms, unless the record has a single arm."""
    return paragraph(Strong(names), f": {text}") if len(record.arms) > 1 else paragraph(text)
