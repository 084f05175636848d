"""Rows of the report's tables and of `scores.csv`: formatted text for people, plain values for programs."""

from fedsim.report.tables.attacks import (
    Attacker,
    Diagnosis,
    Reading,
    Result,
    Results,
    attackers,
    diagnoses,
    readings,
    results,
)
from fedsim.report.tables.clients import (
    CAUSES,
    Attendance,
    LeftOut,
    Ownership,
    Turnout,
    attendances,
    list_failures,
    ownerships,
)
from fedsim.report.tables.figures import NOTHING, Estimate, cost, estimate
from fedsim.report.tables.findings import Answers, FindingRow, answers, finding_sentences
from fedsim.report.tables.own_tables import OwnTable, own_tables
from fedsim.report.tables.scores import score_columns, scores

__all__ = [
    "CAUSES",
    "NOTHING",
    "Answers",
    "Attacker",
    "Attendance",
    "Diagnosis",
    "Estimate",
    "FindingRow",
    "LeftOut",
    "OwnTable",
    "Ownership",
    "Reading",
    "Result",
    "Results",
    "Turnout",
    "answers",
    "attackers",
    "attendances",
    "cost",
    "diagnoses",
    "estimate",
    "finding_sentences",
    "list_failures",
    "own_tables",
    "ownerships",
    "readings",
    "results",
    "score_columns",
    "scores",
]
