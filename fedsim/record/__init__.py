"""What a run leaves on disk: the record, its folder, the policy it is judged by, the environment it ran in.

Everything under `scores`, `rounds` and `model_hash` depends on the scenario and its seed alone; times and the machine
are kept apart from them. The record is log, checkpoint and input of the report, written as `record.json`.
"""

from fedsim.record.attributes import AttributeRecord
from fedsim.record.generations import GenerationRecord, TraceFinding, TraceRecord
from fedsim.record.guarantees import AuditRecord, GuaranteeRecord
from fedsim.record.memberships import GroupRisk, MembershipRecord, MembershipSummary, TruePositives
from fedsim.record.memorisation import ExposureRecord, SecretScore, SecretSummary
from fedsim.record.parts import Cause, Failure, Interval, Part
from fedsim.record.rounds import ClientCost, KeptUpdate, PartitionRecord, RoundRecord, Utility
from fedsim.record.runs import ArmRecord, Environment, RunRecord
from fedsim.record.scores import (
    AttackRecord,
    Ceiling,
    ItemScore,
    MaskScore,
    Summary,
    VictimRecord,
)

__all__ = [
    "ArmRecord",
    "AttackRecord",
    "AttributeRecord",
    "AuditRecord",
    "Cause",
    "Ceiling",
    "ClientCost",
    "Environment",
    "ExposureRecord",
    "Failure",
    "GenerationRecord",
    "GroupRisk",
    "GuaranteeRecord",
    "Interval",
    "ItemScore",
    "KeptUpdate",
    "MaskScore",
    "MembershipRecord",
    "MembershipSummary",
    "Part",
    "PartitionRecord",
    "RoundRecord",
    "RunRecord",
    "SecretScore",
    "SecretSummary",
    "Summary",
    "TraceFinding",
    "TraceRecord",
    "TruePositives",
    "Utility",
    "VictimRecord",
]
