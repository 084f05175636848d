"""Results of a run on disk: the record, the run folder, the environment.

Everything under `scores`, `rounds` and `model_hash` depends only on the scenario and its seed; durations and machine
are stored separately. The record, `record.json`, is log, checkpoint and input of the report.
"""

from fedsim.record.findings import ATTACKS, SIGNIFICANT, Columns, Finding, Outcome, QuestionInfo, Role
from fedsim.record.guarantees import GuaranteeRecord
from fedsim.record.parts import Cause, Failure, Interval, RecordModel
from fedsim.record.rounds import ClientCost, PartitionRecord, RoundRecord, SavedUpdate, Utility
from fedsim.record.runs import ArmFindings, ArmRecord, ArmUpdate, Environment, Record, RunRecord
from fedsim.record.scores import (
    AttackFinding,
    Ceiling,
    ItemScore,
    MaskScore,
    VictimRecord,
)

__all__ = [
    "ATTACKS",
    "SIGNIFICANT",
    "ArmFindings",
    "ArmRecord",
    "ArmUpdate",
    "AttackFinding",
    "Cause",
    "Ceiling",
    "ClientCost",
    "Columns",
    "Environment",
    "Failure",
    "Finding",
    "GuaranteeRecord",
    "Interval",
    "ItemScore",
    "MaskScore",
    "Outcome",
    "PartitionRecord",
    "QuestionInfo",
    "Record",
    "RecordModel",
    "Role",
    "RoundRecord",
    "RunRecord",
    "SavedUpdate",
    "Utility",
    "VictimRecord",
]
