"""What audits say of each kind of thing that engineers have, and of each kind of output; all answers are known.

The examples of `scenarios/45_audit_kinds` and `scenarios/46_audit_outputs`, updates of one example, no defenses tried.
Each has a layer that gives its example back, so "recovered" is true of it; of the private steps "withstood" is.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from fedsim.audit.captured import read_update
from fedsim.audit.loading import load, load_subject
from fedsim.audit.record import KNOWS, AuditPlan
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import check_subject
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.judgement.evidence import count_recovered
from fedsim.judgement.outcome import outcome_of
from fedsim.questions.base import QuestionContext
from fedsim.record import AttackFinding
from fedsim.scenario import Scoring

_SCENARIOS = Path(__file__).parents[1] / "scenarios"
_KINDS, _OUTPUTS = "45_audit_kinds", "46_audit_outputs"
_PRIVATE = "Opacus, private steps"
SUBJECTS = {  # folder, target, and the package that it needs
    "Opacus, open": (_KINDS, "opacus_client.py:make_open", "opacus"),
    _PRIVATE: (_KINDS, "opacus_client.py:make_private", "opacus"),
    "peft": (_KINDS, "peft_client.py:make_client", "peft"),
    "Trainer": (_KINDS, "trainer.py:make_trainer", "transformers"),
    "Flower app": (_KINDS, "flower_app", "flwr"),
    "scikit-learn": (_KINDS, "sklearn_client.py:make_client", "sklearn"),
    "scikit-learn, a number": (_KINDS, "sklearn_client.py:make_regressor", "sklearn"),
    "Lightning": (_KINDS, "lightning_client.py:make_client", "lightning"),
    "a number": (_OUTPUTS, "outputs.py:make_regression", "sklearn"),
    "a set": (_OUTPUTS, "outputs.py:make_multi_label", "sklearn"),
    "a class for every pixel": (_OUTPUTS, "outputs.py:make_segmentation", "sklearn"),
    "a series": (_OUTPUTS, "outputs.py:make_series", "sklearn"),
    "a series, GRU": (_OUTPUTS, "outputs.py:make_recurrent", "sklearn"),
    "three heads": (_OUTPUTS, "outputs.py:make_heads", "sklearn"),
    "boxes in a grid": (_OUTPUTS, "outputs.py:make_detector", "sklearn"),
    "two views of a picture": (_OUTPUTS, "views.py:make_views", "sklearn"),
    "a class for every place of a volume": (_OUTPUTS, "outputs.py:make_volume_masks", "sklearn"),
}
_UPDATES, _ITERATIONS, _SECONDS = 2, 100, 60.0


@experiment("audit-kinds", minutes=3, page="audit")
def audit_kinds(budget: Budget) -> Cells:
    """Return a cell for each kind."""
    return {name: partial(_rows, name, 8 if budget.full else _UPDATES) for name in SUBJECTS}


def _rows(name: str, most: int) -> Iterator[Row]:
    folder, target, package = SUBJECTS[name]
    if importlib.util.find_spec(package) is None:
        print(f"{name} is left out: {package} is not installed", file=sys.stderr)
        return
    rule, begin = Scoring().rule, time.process_time()
    finding = attack_target(_SCENARIOS / folder, target, most)
    spent = time.process_time() - begin
    is_private = name == _PRIVATE
    opened = [float(count_recovered(victim, rule) > 0) for victim in finding.victims]
    state = outcome_of(finding.victims, rule)
    is_true = state == ("withstood" if is_private else "recovered")
    note = f"{state}, which is {'true' if is_true else 'not true'}"
    yield share("updates that give their example back", name, opened, must="<= 0" if is_private else ">= 1", note=note)
    yield Row("processor time of an update", name, spent / len(finding.victims), "s", n=len(finding.victims))


def attack_target(folder: Path, target: str, most: int) -> AttackFinding:
    """Attack the updates of a client of a folder, of one example each; of an app the reply of its first client."""
    plan = AuditPlan(target=target)
    sys.path.insert(0, str(folder))
    try:
        with chdir(folder):
            subject = check_subject(load_subject(load(target), target), target)
            world = world_of(subject, plan, 1)
            victims = updates(world) if subject.subject.reply is None else iter([read_update(subject, plan).victim])
            inspector = UpdateAttacker(KNOWS, lambda _said: None)
            return inspector.inspect(world, victims, QuestionContext(), most, _ITERATIONS, _SECONDS)
    finally:
        sys.path.remove(str(folder))
