"""A guarantee stands in the row of its arm with everything that gives its epsilon meaning."""

from __future__ import annotations

from fedsim.report.tables.guarantees import guarantees
from tests.report import records


def test_only_arms_with_a_guarantee_have_rows() -> None:
    stated = records.guarantee()
    private, plain = records.arm("private", [], guarantees=(stated,)), records.arm("plain", [])
    table = guarantees(records.run([private, plain]))
    assert [group.title for group in table.groups] == ["private"]
    ((row,),) = (group.rows for group in table.groups)
    texts = [cell.text for cell in row.cells]
    expected = (stated.source, stated.figure, stated.neighbours, stated.sampling, stated.composition, stated.adversary)
    assert texts == [*expected]
    assert len(table.headings) == len(texts)
    assert guarantees(records.run([plain])).groups == ()
