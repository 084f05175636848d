"""Records of audits: which are read, and the command that makes one again."""

from pathlib import Path

import pytest

from fedsim.audit.record import AuditPlan, AuditRecord, command_of
from fedsim.core.errors import FedsimError
from fedsim.core.result_files import AUDIT
from fedsim.judgement.policy import Policy
from fedsim.record.environment import environment
from fedsim.record.store import RunFolder, read_record
from tests.audit.findings import membership, record


def test_an_audit_of_another_schema_is_refused(tmp_path: Path) -> None:
    made = AuditRecord(plan=AuditPlan(target="m:f"), environment=environment("fedsim audit m:f"), started="2026-01-01")
    (tmp_path / AUDIT).write_text(made.model_dump_json(indent=1))
    assert read_record(tmp_path, AuditRecord) == made
    older = made.model_dump_json(indent=1).replace('"schema_version": 3', '"schema_version": 2')
    (tmp_path / AUDIT).write_text(older)
    with pytest.raises(FedsimError, match=r"audit.json has schema version 2, expected 3: .* Run it again"):
        read_record(tmp_path, AuditRecord)


def test_what_is_printed_to_run_it_again_can_be_typed() -> None:
    plan = AuditPlan(
        target="my.train:make client",
        batches=(1, 4),
        minutes=2,
        defend=False,
        updates=9,
        knows=("labels",),
        group_by="age",
    )
    plan = plan.model_copy(update={"gradients": Path("g.npz")})
    command = command_of(plan, Path("results/audit-make"), Path("strict.toml"), None)
    assert command == (
        "fedsim audit 'my.train:make client' --batch-sizes 1,4 --minutes 2 --out results/audit-make --seed 0 --knows "
        "labels --updates 9 --group-by age --no-defenses --policy strict.toml --gradients g.npz"
    )


def test_the_command_of_an_audit_on_a_gpu_names_the_device() -> None:
    plan = AuditPlan(target="m:f", device="cuda")
    assert "--device cuda" in command_of(plan, Path("results/audit-f"), Path("pyproject.toml"), None)


def test_a_changed_audit_whose_metric_is_not_declared_is_refused(tmp_path: Path) -> None:
    made = record(Policy(), findings=(membership(0.2),))
    RunFolder(tmp_path, AUDIT).write_record(made)
    assert read_record(tmp_path, AuditRecord) == made
    others = tuple(metric for metric in made.metrics if metric.name != "auc")
    RunFolder(tmp_path, AUDIT).write_record(made.model_copy(update={"metrics": others}))
    with pytest.raises(FedsimError, match=r"audit.json cannot be read: metrics: it has values of 'auc'"):
        read_record(tmp_path, AuditRecord)


def test_the_folder_of_a_run_is_no_audit(tmp_path: Path) -> None:
    RunFolder(tmp_path).write("record.json", b"{}")
    with pytest.raises(FedsimError, match=r"holds no audit.json: not the folder of an audit"):
        read_record(tmp_path, AuditRecord)
