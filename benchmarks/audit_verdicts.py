"""What audits say of networks that other people wrote: detectors, transformers of images and texts, tables.

Each network of `benchmarks/_audit_subjects.py` is audited by the command as a user would, batches of 1 and 4, without
trying defenses; the policy allows 5 % of the examples. `seconds` are those of a whole audit, by the clock. A network
whose package is missing has no rows.
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
from benchmarks._rows import Row
from fedsim.audit import page
from fedsim.audit.record import AuditRecord

PACKAGES = {  # of each network, beside torch
    "resnet18": "torchvision",
    "detector_backbone": "torchvision",
    "bert": "transformers",
    "causal_lm": "transformers",
    "table": "sklearn",
    "survey": "statsmodels",
}
_SAYS = ("updates", "examples", "searched", "recovered", "median figure", "ideal attacker", "state", "by")
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


@experiment("audit-verdicts", minutes=6, page="audit", seconds=120)
def audit_verdicts(budget: Budget) -> Cells:
    """Return a cell for each network."""
    return {name: partial(_rows, name, (budget.seconds or 0.0) / 60) for name in PACKAGES}


def _rows(name: str, minutes: float) -> Iterator[Row]:
    if importlib.util.find_spec(PACKAGES[name]) is None:
        print(f"{name} is left out: {PACKAGES[name]} is not installed", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        code, record = audited(name, minutes, Path(folder))
    for arm in record.client:
        texts = [cell.text for cell in page.update_row(record, arm).cells[1:]]
        for what, said in zip((*_SAYS, "exit code"), (*texts, str(code)), strict=True):
            yield Row(what, f"{name}, B = {arm.batch_size}", 0.0, "", n=0, note=said)
