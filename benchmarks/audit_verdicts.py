"""What audits say of networks that other people wrote: detectors, transformers of images and texts, tables.

    python -m benchmarks.audit_verdicts [--minutes 5] [--only TEXT] [--out FOLDER] [--json]

Each network of `benchmarks/_audit_subjects.py` is audited by the command as a user would, batches of 1 and 4, without
trying defenses; the policy allows 5 % of the examples. A network whose package is missing is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import _audit_subjects as subjects
from fedsim.audit import page
from fedsim.audit.record import AuditRecord

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
_HEADINGS = (
    "network",
    "batch",
    "updates",
    "examples",
    "searched",
    "recovered",
    "median figure",
    "ideal",
    "state",
    "by",
    "exit",
)


def audited(name: str, minutes: float, folder: Path) -> tuple[int, AuditRecord]:
    """Run the command on a network, and return its exit code and its record."""
    policy = folder / "policy.toml"
    policy.write_text(_POLICY)
    out = folder / name
    target = f"{Path(subjects.__file__)}:{name}"
    asked = ["--batch", "1,4", "--minutes", f"{minutes:g}", "--no-defenses", "--policy", str(policy), "--out", str(out)]
    command = [sys.executable, "-m", "fedsim", "audit", target, *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (out / "audit.json").exists():
        raise SystemExit(f"{name}: {done.stderr or done.stdout}")
    return done.returncode, AuditRecord.model_validate_json((out / "audit.json").read_text())


def rows(name: str, code: int, record: AuditRecord) -> list[tuple[str, ...]]:
    """Return a row for each batch size."""
    cells = (page.update_row(record, inspection).cells for inspection in record.inspections)
    return [(name, *(cell.text for cell in row), str(code)) for row in cells]


def main() -> None:
    """Print a row for each network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each audit")
    parser.add_argument("--only", default="", help="networks whose name contains this text")
    parser.add_argument("--out", type=Path, help="folder for the audits; absent: a temporary one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    found = list[tuple[str, ...]]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (own for own in PACKAGES if asked.only in own):
            if importlib.util.find_spec(PACKAGES[name]) is None:
                print(f"{name} is left out: {PACKAGES[name]} is not installed", file=sys.stderr)
                continue
            found += rows(name, *audited(name, asked.minutes, folder))
    if asked.json:
        print(json.dumps([dict(zip(_HEADINGS, own, strict=True)) for own in found], indent=1))
        return
    print("| " + " | ".join(_HEADINGS) + " |\n" + "|---" * len(_HEADINGS) + "|")
    for own in found:
        print("| " + " | ".join(own) + " |")


if __name__ == "__main__":
    main()
