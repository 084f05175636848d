"""Records of audits that a version before this one wrote."""

import json
from pathlib import Path

from fedsim.audit.record import RECORD, AuditRecord, Plan, command_of, read
from fedsim.record.environment import environment

STORED = Path(__file__).parents[1] / "record" / "schema_1" / "images.json"


def test_an_audit_of_schema_1_is_read_in_the_present_one(tmp_path: Path) -> None:
    attack = json.loads(STORED.read_text())["arms"][0]["attacks"][0]
    found = {"batch_size": 1, "iterations": 5, "victims": attack["victims"], "summary": attack["summary"]}
    now = AuditRecord(plan=Plan(target="m:f"), environment=environment("fedsim audit m:f"), started="2026-01-01")
    before = {**now.model_dump(mode="json"), "schema_version": 1, "inspections": [found], "control": found}
    before["trials"] = [{"name": "pruning", "settings": {}, "inspection": None}]
    (tmp_path / RECORD).write_text(json.dumps(before))
    record = read(tmp_path)
    assert record.schema_version == 2
    assert record.control == record.inspections[0]
    item = record.inspections[0].victims[0].scores[0]
    assert item.values["psnr"] == attack["victims"][0]["scores"][0]["psnr"]
    assert record.inspections[0].recovered == attack["summary"]["success"]["value"]


def test_what_is_printed_to_run_it_again_can_be_typed() -> None:
    plan = Plan(
        target="my.train:make client", batches=(1, 4), minutes=2, defend=False, updates=9, knows=("labels",), by="age"
    )
    plan = plan.model_copy(update={"gradients": Path("g.npz")})
    command = command_of(plan, Path("results/audit-make"), Path("strict.toml"), None)
    assert command == (
        "fedsim audit 'my.train:make client' --batch 1,4 --minutes 2 --out results/audit-make --seed 0 --knows labels "
        "--updates 9 --by age --no-defenses --policy strict.toml --gradients g.npz"
    )


def test_the_command_of_an_audit_on_a_gpu_names_the_device() -> None:
    plan = Plan(target="m:f", device="cuda")
    assert "--device cuda" in command_of(plan, Path("results/audit-f"), Path("pyproject.toml"), None)
