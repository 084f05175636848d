"""Records of audits: which are read, and the command that makes one again."""

from pathlib import Path

import pytest

from fedsim.audit.record import RECORD, AuditPlan, AuditRecord, command_of, read
from fedsim.core.errors import FedsimError
from fedsim.record.environment import environment


def test_an_audit_of_another_schema_is_refused(tmp_path: Path) -> None:
    record = AuditRecord(
        plan=AuditPlan(target="m:f"), environment=environment("fedsim audit m:f"), started="2026-01-01"
    )
    (tmp_path / RECORD).write_text(record.model_dump_json(indent=1))
    assert read(tmp_path) == record
    older = record.model_dump_json(indent=1).replace('"schema_version": 2', '"schema_version": 1')
    (tmp_path / RECORD).write_text(older)
    with pytest.raises(FedsimError, match=r"audit.json has schema version 1, expected 2: .* Run it again"):
        read(tmp_path)


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
