"""What audits say of networks that other people wrote: detectors, transformers of images and texts, tables.

Each network of `benchmarks/_audit_subjects.py` is audited by the command as a user would, batches of 1 and 4, without
trying defenses; the policy allows 5 % of the examples. `seconds` are those of a whole audit. A network whose package is
missing has no rows.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import _audit_subjects as subjects
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from fedsim.audit import page
from fedsim.audit.record import AuditRecord
from fedsim.metrics.evidence import recovered
from fedsim.metrics.success import Rule

PACKAGES = {  # of each network, beside torch
    "timm_resnet18": "timm",
    "timm_vit_tiny": "timm",
    "detector_backbone": "torchvision",
    "batch_norm": "sklearn",
    "bert": "transformers",
    "causal_lm": "transformers",
    "table": "sklearn",
    "survey": "statsmodels",
}
_POLICY = "[tool.fedsim.policy]\nmax_recognisable = 0.05\n"


def audited(name: str, minutes: float, folder: Path) -> tuple[int, AuditRecord]:
    """Run the command on a network, and return its exit code and its record."""
    policy = folder / "policy.toml"
    policy.write_text(_POLICY)
    out = folder / name
    target = f"{Path(subjects.__file__)}:{name}"
    options = [
        "--batch",
        "1,4",
        "--minutes",
        f"{minutes:g}",
        "--no-defenses",
        "--policy",
        str(policy),
        "--out",
        str(out),
    ]
    command = [sys.executable, "-m", "fedsim", "audit", target, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (out / "audit.json").exists():
        raise SystemExit(f"{name}: {done.stderr or done.stdout}")
    return done.returncode, AuditRecord.model_validate_json((out / "audit.json").read_text())


@experiment("audit-verdicts", minutes=50, page="audit", seconds=300)
def audit_verdicts(budget: Budget) -> Cells:
    """Return a cell for each network."""
    return {name: partial(_rows, name, (budget.seconds or 0.0) / 60) for name in PACKAGES}


def _rows(name: str, minutes: float) -> Iterator[Row]:
    if importlib.util.find_spec(PACKAGES[name]) is None:
        print(f"{name} is left out: {PACKAGES[name]} is not installed", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        code, record = audited(name, minutes, Path(folder))
    rule = Rule.of(record.plan.scoring.metric, record.plan.scoring.threshold)
    for arm in record.client:
        setting, victims = f"{name}, B = {arm.batch_size}", arm.victims
        opened = [float(recovered(victim, rule) > 0) for victim in victims]
        cells = [cell.text for cell in page.update_row(record, arm).cells]
        note = "; ".join([*filter(None, cells[4:]), f"exit code {code}"])
        if not opened:
            yield Row("updates with a recovered example", setting, 0.0, "share", n=0, note=note)
            continue
        yield share("updates with a recovered example", setting, opened, note=note)
