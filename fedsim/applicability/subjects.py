"""Overview of the attacks on the updates of a subject, as an audit would attack them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from fedsim.applicability.overview import AttackOverview, Case, overview_of
from fedsim.audit.record import AuditPlan
from fedsim.audit.single_client import check, world_of
from fedsim.audit.subject import CheckedSubject, Subject, check_subject
from fedsim.audit.update_attacks import updates
from fedsim.core.errors import FedsimError
from fedsim.core.foreign import pytorch
from fedsim.core.hosting import one_thread
from fedsim.core.types import GRANTS, Knowledge, Observation
from fedsim.threat.observe import observe

_BY_CODE: frozenset[Knowledge] = frozenset({"components", "earlier-rounds", "extra-inputs"})  # no effect here


@one_thread()
def overview_of_subject(
    subject: Subject, name: str, batch_size: int, knows: Sequence[Knowledge], seed: int = 0
) -> AttackOverview:
    """Return the overview of the attacks on an update of a subject.

    Args:
        subject: model, loss and data of a client.
        name: the subject's name in errors.
        batch_size: examples behind the update.
        knows: granted knowledge.
        seed: seed of the client's random draws.

    Raises:
        FedsimError: a part of the subject does not fit, or it has too few examples.
    """
    sound = check_subject(subject, name)
    possible: list[Knowledge] = [
        knowledge
        for knowledge, grant in GRANTS.items()
        if knowledge not in _BY_CODE and (not grant.depends_on_task or knowledge in sound.task.knowable)
    ]
    plan = AuditPlan(target=name, seed=seed)
    return overview_of(partial(_observe, sound, plan), Case(batch_size, frozenset(knows)), possible)


def _observe(subject: CheckedSubject, plan: AuditPlan, case: Case) -> Observation:
    owned = len(subject.dataset.train) // subject.subject.rows_of_one
    if case.batch_size > owned:
        raise FedsimError(
            f"--batch is {case.batch_size}, but the loader of '{plan.target}' yields {owned} examples for training. "
            "Choose a smaller batch, or let the loader yield more."
        )
    sound = subject if case.has_dropout else replace(subject, model=_without_dropout(subject.new_model()))
    knows = tuple(sorted(case.knows))
    world = world_of(sound, plan.model_copy(update={"knows": knows}), case.batch_size)
    check(world, sound)
    return observe(next(updates(world)), knows)


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, pytorch.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model
