"""Table of guarantees with all conditions of their epsilon."""

from __future__ import annotations

from fedsim.record import GuaranteeRecord, RunRecord
from fedsim.report.document import Heading, RowGroup, Table, TableRow

_HEADINGS = tuple(map(Heading, ("by", "figure", "unit", "sampling", "composition", "against")))


def guarantees(record: RunRecord) -> Table:
    """Return the guarantees of every arm."""
    groups = (RowGroup(arm.name, tuple(map(_row, arm.guarantees))) for arm in record.arms if arm.guarantees)
    return Table("Guarantees", _HEADINGS, tuple(groups), group_heading="arm", layout="words")


def _row(guarantee: GuaranteeRecord) -> TableRow:
    return TableRow.of(
        guarantee.source,
        guarantee.figure,
        guarantee.neighbours,
        guarantee.sampling,
        guarantee.composition,
        guarantee.adversary,
    )
