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
from fedsim.report.tables.attributes import Asked, Attributes, attribute_sentences, attributes
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
from fedsim.report.tables.generations import CSV_COLUMNS, QUESTIONS, Spoken, generations, trace_rows, trace_sentences
from fedsim.report.tables.models import Inference, Inferences, Memories, Remembered, memberships, memories
from fedsim.report.tables.own_tables import OwnTable, own_tables
from fedsim.report.tables.scores import score_columns, scores

__all__ = [
    "CAUSES",
    "CSV_COLUMNS",
    "NOTHING",
    "QUESTIONS",
    "Asked",
    "Attacker",
    "Attendance",
    "Attributes",
    "Diagnosis",
    "Estimate",
    "Inference",
    "Inferences",
    "LeftOut",
    "Memories",
    "OwnTable",
    "Ownership",
    "Reading",
    "Remembered",
    "Result",
    "Results",
    "Spoken",
    "Turnout",
    "attackers",
    "attendances",
    "attribute_sentences",
    "attributes",
    "cost",
    "diagnoses",
    "estimate",
    "generations",
    "list_failures",
    "memberships",
    "memories",
    "own_tables",
    "ownerships",
    "readings",
    "results",
    "score_columns",
    "scores",
    "trace_rows",
    "trace_sentences",
]
