"""The section of a question explains, doubts and lists its findings, whatever command recorded them."""

from typing import Any

from fedsim.judgement.policy import Policy
from fedsim.record import Finding, RunRecord
from fedsim.report.document import Banner, Block, Fold, Paragraph, Table
from fedsim.report.sections.questions import HOW, question_blocks
from fedsim.report.tables.findings import questions
from tests.audit.findings import exposure, record, secrets
from tests.report import records
from tests.report.made_findings import PERMUTED, of_attributes

FOUND = of_attributes("a", "parity", 0.9, 0.8)


def told(*findings: Finding, arms: int = 1) -> tuple[RunRecord, list[Block]]:
    own = [records.arm(f"arm {number}", [], findings=findings) for number in range(arms)]
    made = records.run(own)
    return made, list(question_blocks(made, questions(made)[0], 0.9))


def text_of(block: Any) -> str:
    assert isinstance(block, Paragraph)
    return block.text


def test_summary_and_interval_come_first_and_the_method_last() -> None:
    made, blocks = told(FOUND)
    assert text_of(blocks[0]) == f"{questions(made)[0].summary} Each value is followed by its 90% interval."
    assert [type(block) for block in blocks[1:]] == [Table, Fold]
    assert blocks[-1] == Fold(HOW, (Paragraph((questions(made)[0].method,)),))


def test_roles_are_explained_where_a_control_is_listed() -> None:
    _, blocks = told(FOUND, PERMUTED)
    assert 'a "negative-control" has nothing to find' in text_of(blocks[0])


def test_notes_and_failed_controls_name_their_arm_only_among_several() -> None:
    noted = FOUND.model_copy(update={"note": "A remark."})
    weak = of_attributes("sees all", "parity", 0.5, 0.4, role="positive-control")
    for arms, prefix in ((1, ""), (2, "arm 0: ")):
        _, blocks = told(noted, weak, arms=arms)
        assert text_of(blocks[1]) == f"{prefix}A remark."
        banners = [block for block in blocks if isinstance(block, Banner)]
        assert len(banners) == arms
        assert banners[0].text.startswith(f"{prefix}Not above chance, though it must be: sees all.")


def test_single_examples_of_an_audit_are_folded_like_those_of_a_run() -> None:
    table = {name: {**columns, "text": [str(n) for n in range(24)]} for name, columns in secrets().items()}
    audited = record(Policy(), findings=exposure(), items=table)
    (question,) = questions(audited)
    blocks = list(question_blocks(audited, question, 0.95))
    folds = [block for block in blocks if isinstance(block, Fold)]
    assert [fold.summary for fold in folds] == ["Single examples", HOW]
    (example,) = folds[0].blocks
    assert isinstance(example, Table)
    assert [heading.text for heading in example.headings] == ["repetitions", "uses", "text"]
    assert [cell.text for cell in example.rows[-1].cells] == ["16", "64", "23"]
