"""Membership inference on the finished model, by every attack that trains no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn, cast

import numpy as np
import torch

from fedsim.audit.members import attacks
from fedsim.audit.record import AuditPlan
from fedsim.audit.single_client import world_of
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch
from fedsim.federation.journal import ServerLog
from fedsim.metrics.membership import name_of, roc
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.observe import Case
from fedsim.questions.membership.question import Cases, MembershipChoice, judge_all
from fedsim.questions.membership.types import MembershipObservation, Shadow, ShadowPlan, Target
from fedsim.record import Finding
from fedsim.release.finished import ReleaseCandidate
from fedsim.release.permutation import permutation_test, with_control
from fedsim.threat.orders import secret_order

RARE = 0.01
_ROUNDING = 1e-12
_SAME = 1e-6  # in single precision a loss near 0 is known no better


def find(finished: ReleaseCandidate, seed: int) -> Iterator[Finding]:
    """Yield the figures of each attack, the control of shuffled labels behind each.

    Args:
        finished: the model, its members and others.
        seed: of all draws.
    """
    choices, case = list(_choices(has_reference=finished.reference is not None)), _case(finished, seed)
    world = world_of(finished.subject, AuditPlan(target="release", seed=seed), 1)
    plans = {plan for choice in choices if (plan := _make_attack(choice).plan()) is not None}
    trained = {("model", plan): (_reference(finished, case),) for plan in plans}
    cases = Cases(
        Evidence(world, ServerLog(lambda _round: None)),
        QuestionContext(),
        len(finished.members),
        cases_by_target={"model": case},
        shadows_by_plan=cast("dict[tuple[Target, ShadowPlan], tuple[Shadow, ...]]", trained),
    )
    is_member = case.is_member.numpy()
    known: dict[str, np.ndarray] = {}
    for finding in judge_all(choices, cases):
        if finding.failure:
            yield finding
            continue
        scores = cases.scores[finding.label].double().numpy()
        if twin := next((label for label, values in known.items() if np.allclose(scores, values, atol=_SAME)), None):
            yield finding.model_copy(
                update={"value": None, "extra_metrics": {}, "failure": f"gives the scores of {twin} here"}
            )
            continue
        known[finding.label] = scores
        yield from _figures(finding, scores, is_member, seed)


def _choices(*, has_reference: bool) -> Iterator[MembershipChoice]:
    """Yield the attacks that train no model; with a reference, also attacks that need models without members."""
    methods = registry.methods("attack", MembershipAttack).items()
    reproductions = {name for name, method in methods if method.fidelity == "reproduction"}
    for choice in sorted(attacks(), key=lambda attack: (attack.name not in reproductions, attack.name)):
        attack, plan = _make_attack(choice), _make_attack(choice).plan()
        if attack.target == "model" and (plan is None or (has_reference and not plan.with_candidates)):
            yield choice


def _make_attack(choice: MembershipChoice) -> MembershipAttack[Any]:
    return choice.make("attack")


def _case(finished: ReleaseCandidate, seed: int) -> Case:
    """Return the candidates in random order; with a reference, half of the non-members belong to the attacker."""
    non_members = finished.non_members
    held = len(non_members) // 2 if finished.reference is not None else 0
    source = seeding.generator(seed, "release candidates")
    mixed = torch.randperm(len(non_members), generator=source)
    candidates = Batch.concat((finished.members, non_members.select(mixed[held:])))
    order = secret_order(len(candidates), candidates, seed, "order of release candidates")
    model = finished.subject.new_model().eval()
    observation = MembershipObservation(
        candidates=candidates.select(order),
        reference=non_members.select(mixed[:held]),
        model=model,
        loss=finished.subject.loss,
        weights=((1, model.state_dict()),),
        updates=(),
        train_shadow=_train_nothing,
        task=finished.subject.task,
    )
    return Case(observation, (torch.arange(len(candidates)) < len(finished.members))[order])


def _train_nothing(_examples: Batch, _generator: torch.Generator) -> NoReturn:
    raise FedsimError("a release check trains no model")


def _reference(finished: ReleaseCandidate, case: Case) -> Shadow:
    """Return the reference as a shadow model, trained on no candidate and on none of the attacker's examples."""
    seen = case.observation
    none_inside = [torch.zeros(len(batch), dtype=torch.bool) for batch in (seen.candidates, seen.reference)]
    return Shadow(dict(finished.reference or {}), *none_inside)


def _figures(finding: Finding, scores: np.ndarray, is_member: np.ndarray, seed: int) -> Iterator[Finding]:
    from scipy.stats import rankdata  # noqa: PLC0415 - a list of commands need not wait for SciPy

    ranks, members = rankdata(scores), int(is_member.sum())

    def auc(labels: np.ndarray) -> float:
        return (ranks[labels].sum() - members * (members + 1) / 2) / (members * (len(labels) - members))

    def rate(labels: np.ndarray) -> float:
        false, true = roc(scores[labels], scores[~labels])
        return float(true[false <= RARE + _ROUNDING].max())

    source = np.random.default_rng(seeding.derive(seed, "release shuffles"))
    for name, figure in (("auc", auc), (name_of(RARE), rate)):
        if (value := finding.figures.get(name)) is not None:
            luck = permutation_test(figure, is_member, source)
            chance = 0.5 if name == "auc" else luck.value.value
            changed = finding.model_copy(
                update={"metric": name, "value": value, "chance_level": chance, "extra_metrics": {}, "items": ""}
            )
            yield from with_control(changed, luck.p, luck.value)
