"""Do audits of one subject agree, whatever the seed? Prints what each seed says of subjects whose answer is known.

Decided verdicts (kept or broken) must not contradict each other. Without ``--full`` four seeds a subject, with it ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from fedsim.audit import AuditPlan, single_client
from fedsim.audit.limits import client_thresholds
from fedsim.audit.record import KNOWS, AuditArm, AuditRecord
from fedsim.audit.subject import CheckedSubject, Subject, check_subject
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.core import seeding
from fedsim.judgement.policy import Policy
from fedsim.questions.base import QuestionContext
from fedsim.record.environment import environment

_LIMIT = 0.6  # share of recovered images: none of 3 keeps it, 6 of 6 break it
_UPDATES, _SECONDS, _ITERATIONS = 6, 20.0, 20


def subjects() -> Iterator[tuple[str, CheckedSubject]]:
    """Yield a client that leaks, two with noise that destroys or does not, and one whose search is too weak."""
    with seeding.isolate_randomness(0):
        dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))
        first = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Sigmoid(), nn.Conv2d(4, 4, 2), nn.Sigmoid())
        deep = nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    for name, model, scale in (("leaks", dense, 0.0), ("noise x 0.01", dense, 0.01), ("noise x 10", dense, 10.0)):
        yield name, _make_subject(model, scale)
    yield "weak search", _make_subject(deep, 0.0)


def _make_subject(model: nn.Module, scale: float) -> CheckedSubject:
    generator = torch.Generator().manual_seed(5)
    images = nn.functional.interpolate(torch.rand(40, 1, 4, 4, generator=generator), size=(8, 8), mode="bilinear")
    data = TensorDataset(images, torch.randint(4, (40,), generator=generator))
    noise = ({"name": "gradient-noise", "scale": scale, "relative": True},) if scale else ()
    return check_subject(
        Subject(model, nn.functional.cross_entropy, DataLoader(data, batch_size=8), defenses=noise), "seeds"
    )


def audit_verdict(subject: CheckedSubject, seed: int) -> str:
    """Return what an audit with a seed says of the limit."""
    plan = AuditPlan(target="seeds", seed=seed)
    world = single_client.world_of(subject, plan, 1)
    inspector = UpdateAttacker(KNOWS, lambda _said: None)
    finding = inspector.inspect(world, updates(world), QuestionContext(), _UPDATES, _ITERATIONS, _SECONDS)
    arm = AuditArm(name="seeds", batch_size=world.scenario.federation.batch_size, findings=(finding,))
    record = AuditRecord(
        plan=plan,
        policy=Policy(max_recovered=_LIMIT),
        environment=environment(""),
        started="",
        arms=(arm,),
    )
    return client_thresholds(record)[0].state


@experiment("audit-seeds", minutes=5, page="audit")
def audit_seeds(budget: Budget) -> Cells:
    """Return a cell for each subject."""
    return {name: partial(_rows, name, subject, 10 if budget.full else 4) for name, subject in subjects()}


def _rows(name: str, subject: CheckedSubject, seeds: int) -> Iterator[Row]:
    states = [audit_verdict(subject, seed) for seed in range(seeds)]
    for state in ("kept", "undecided", "broken"):
        yield share(state, name, [float(one == state) for one in states])
    yield Row("decided otherwise than most", name, min(map(states.count, ("kept", "broken"))), "", n=seeds, must="<= 0")
