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
    left_out,
    ownerships,
)
from fedsim.report.tables.composites import MINOR_SHARES, Sight, sights
from fedsim.report.tables.figures import NOTHING, Estimate, cost, estimate
from fedsim.report.tables.models import Inference, Inferences, Memories, Remembered, memberships, memories
from fedsim.report.tables.scores import SCORE_COLUMNS, scores

__all__ = [
    "CAUSES",
    "MINOR_SHARES",
    "NOTHING",
    "SCORE_COLUMNS",
    "Attacker",
    "Attendance",
    "Diagnosis",
    "Estimate",
    "Inference",
    "Inferences",
    "LeftOut",
    "Memories",
    "Ownership",
    "Reading",
    "Remembered",
    "Result",
    "Results",
    "Sight",
    "Turnout",
    "attackers",
    "attendances",
    "cost",
    "diagnoses",
    "estimate",
    "left_out",
    "memberships",
    "memories",
    "ownerships",
    "readings",
    "results",
    "scores",
    "sights",
]
