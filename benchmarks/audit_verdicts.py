"""What audits say of networks that other people wrote: detectors, transformers of images and texts, tables.

Each network of `benchmarks/_audit_subjects.py` is audited by the command as a user would, batches of 1 and 4, without
trying defenses; the policy allows 5 % of the examples. `seconds` are those of a whole audit, by the clock. A network
whose package is missing has no rows. One more audit, of batches of 4, says what secrets a language model remembers.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import _audit_subjects as subjects
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, interval_row
from fedsim.audit import page
from fedsim.audit.record import AuditRecord


class Network(NamedTuple):
    """What is audited: a function of the subjects, in words, and the package that it needs beside torch."""

    name: str
    words: str
    package: str


NETWORKS = (
    Network("resnet18", "torchvision ResNet-18, 64 px", "torchvision"),
    Network("detector_backbone", "torchvision Faster R-CNN's backbone, MobileNetV3, 64 px", "torchvision"),
    Network("bert", "transformers BERT, class of a sentence of 24 tokens", "transformers"),
    Network("causal_lm", "transformers Llama, next tokens of 24", "transformers"),
    Network("table", "perceptron with dropout, a table of 30 numbers", "sklearn"),
    Network("survey", "perceptron, a survey of 6 numbers and 2 categories", "statsmodels"),
)
SECRETS = Network("adam_lm", "the same Llama trained by Adam", "transformers")
_LONGER = 1.6  # times the seconds: it trains, too
_SAYS = ("updates", "examples", "searched", "recovered", "median figure", "ideal attacker", "state", "by")
_POLICY = "[tool.fedsim.policy]\nmax_recovered = 0.05\n"


def run_audit(network: Network, batches: str, seconds: float) -> tuple[int, AuditRecord]:
    """Run the command on a network, and return its exit code and its record."""
    with tempfile.TemporaryDirectory() as folder:
        policy, out = Path(folder, "policy.toml"), Path(folder, network.name)
        policy.write_text(_POLICY)
        target = f"{Path(subjects.__file__)}:{network.name}"
        limits = ["--batch-sizes", batches, "--minutes", f"{seconds / 60:g}", "--policy", str(policy)]
        command = [sys.executable, "-m", "fedsim", "audit", target, *limits, "--no-defenses", "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (out / "audit.json").exists():
            raise SystemExit(f"{network.name}: {done.stderr or done.stdout}")
        return done.returncode, AuditRecord.model_validate_json((out / "audit.json").read_text())


@experiment("audit-verdicts", minutes=38, page="audit", seconds=300)
def audit_verdicts(budget: Budget) -> Cells:
    """Return a cell for each network, and one for the secrets."""
    seconds = budget.seconds or 0.0
    verdicts = {network.words: partial(_verdicts, network, seconds) for network in NETWORKS}
    return {**verdicts, "secrets": partial(_secrets, _LONGER * seconds)}


def _is_here(network: Network) -> bool:
    is_here = importlib.util.find_spec(network.package) is not None
    if not is_here:
        print(f"{network.name} is left out: {network.package} is not installed", file=sys.stderr)
    return is_here


def _verdicts(network: Network, seconds: float) -> Iterator[Row]:
    if not _is_here(network):
        return
    code, record = run_audit(network, "1,4", seconds)
    for arm in record.client:
        texts = [cell.text for cell in page.update_row(record, arm).cells[1:]]
        for what, said in zip((*_SAYS, "exit code"), (*texts, str(code)), strict=True):
            yield Row(what, f"{network.words}, B = {arm.batch_size}", 0.0, "", n=0, note=said)


def _secrets(seconds: float) -> Iterator[Row]:
    """Yield exposure and secrets that the model wrote, by how often they were planted."""
    if not _is_here(SECRETS):
        return
    _, record = run_audit(SECRETS, "4", seconds)
    for finding in (one for arm in record.client for one in arm.findings if one.question == "exposure"):
        times = finding.scope["repetitions"]
        setting = f"{SECRETS.words}, planted {times} times" if times else f"{SECRETS.words}, not planted (control)"
        if finding.value is not None:
            yield interval_row(f"exposure, of {finding.max_value:.1f} bits", setting, finding.value, "bits")
        yield interval_row("written by the model", setting, finding.extra_metrics["secret_extraction_rate"], "share")
