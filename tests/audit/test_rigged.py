"""Subjects whose true answer is known: the audit says what is true of each, and no more."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.audit import AuditPlan, single_client, verdict
from fedsim.audit.evidence import doubts, fewest, has_learned
from fedsim.audit.record import KNOWS, AuditArm, AuditRecord
from fedsim.audit.subject import CheckedSubject, Subject, check_subject
from fedsim.audit.training import train
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.judgement.limits import BROKEN, UNDECIDED
from fedsim.judgement.outcome import outcome_of
from fedsim.judgement.policy import Policy
from fedsim.questions.base import QuestionContext
from fedsim.record.environment import environment
from tests.audit import clients
from tests.audit.findings import exit_code_of


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Sigmoid(), nn.Conv2d(4, 4, 2), nn.Sigmoid())
    return nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def subject(model: nn.Module, **settings: Any) -> CheckedSubject:
    return check_subject(Subject(model, nn.functional.cross_entropy, clients.loader(), **settings), "rigged")


def inspected(own: CheckedSubject, most: int, batch: int = 1, iterations: int = 20) -> AuditArm:
    world = single_client.world_of(own, AuditPlan(target="rigged"), batch)
    inspector = UpdateAttacker(KNOWS, lambda _said: None)
    finding = inspector.inspect(world, updates(world), QuestionContext(), most, iterations, 60.0)
    return AuditArm(name="rigged", batch_size=batch, findings=(finding,))


def audited(found: AuditArm, limit: float) -> AuditRecord:
    return AuditRecord(
        plan=AuditPlan(target="rigged"),
        policy=Policy(max_recovered=limit),
        environment=environment(""),
        started="",
        arms=(found,),
    )


NOISE = ({"name": "gradient-noise", "scale": 10.0, "relative": True},)


def test_what_leaks_exactly_is_recovered() -> None:
    record = audited(inspected(subject(perceptron()), 3), 0.05)
    assert outcome_of(record.arms[0].victims, record.plan.scoring.rule) == "recovered"
    assert exit_code_of(record) == BROKEN


def test_what_noise_destroyed_withstands_and_keeps_a_limit_that_its_sample_supports() -> None:
    found = inspected(subject(perceptron(), defenses=NOISE), 2)
    record = audited(found, 0.7)  # 0 of 2: at most 66 %
    assert outcome_of(found.victims, record.plan.scoring.rule) == "withstood"
    assert (verdict.undecided_sentences(record), exit_code_of(record)) == ((), 0)


def test_a_sample_too_small_is_undecided_though_every_search_converged() -> None:
    found = inspected(subject(perceptron(), defenses=NOISE), 1)
    record = audited(found, 0.05)
    assert doubts(found, record.plan.scoring.rule) == ()
    (reason,) = verdict.undecided_sentences(record)
    assert "n = 1 leaves 0 to 79 % open and the limit is 5 %: about 72 more updates" in reason
    assert exit_code_of(record) == UNDECIDED


def test_a_search_that_is_too_weak_is_undecided() -> None:
    found = inspected(subject(convolutions()), 1, batch=4, iterations=2)
    record = audited(found, 0.9)
    assert outcome_of(found.victims, record.plan.scoring.rule) == "undecided"
    assert "1 of 1 searches did not converge" in verdict.undecided_sentences(record)[0]
    assert exit_code_of(record) == UNDECIDED


def test_a_control_with_labels_drawn_by_lot_does_not_learn() -> None:
    world = single_client.world_of(subject(perceptron()), AuditPlan(target="rigged"), 4)
    assert not has_learned(train(world, 2, 1.0).summary)


def test_an_inspection_is_continued_where_it_ended_and_ends_where_the_policy_is_broken() -> None:
    own = subject(perceptron())
    world = single_client.world_of(own, AuditPlan(target="rigged"), 1)
    inspector, work = UpdateAttacker(KNOWS, lambda _said: None), QuestionContext()
    first = inspector.inspect(world, updates(world), work, 1, 5, 60.0)
    both = inspector.inspect(world, updates(world), work, 3, 5, 60.0, before=first.victims)
    whole = UpdateAttacker(KNOWS, lambda _said: None).inspect(world, updates(world), work, 3, 5, 60.0)
    assert [victim.scores for victim in both.victims] == [victim.scores for victim in whole.victims]
    assert (both.value, both.extra_metrics) == (whole.value, whole.extra_metrics)
    broken = inspector.inspect(world, updates(world), work, 12, 5, 60.0, allowed=0.0)
    assert len(broken.victims) == 8  # enough for 8 images


@pytest.mark.slow
def test_a_search_is_spared_where_nobody_could_recover_what_is_left() -> None:
    found = inspected(subject(perceptron(), defenses=NOISE), 1, iterations=100_000)
    (victim,) = found.victims
    assert not any(item.values["ssim"] > 0.5 for item in victim.ceiling.scores)
    assert 0 < victim.iterations < 1000


@pytest.mark.parametrize(("allowed", "updates_"), [(0.05, 73), (0.1, 35), (None, 0), (0.0, 0), (1.0, 0)])
def test_as_many_updates_are_planned_as_a_limit_needs(allowed: float | None, updates_: int) -> None:
    assert fewest(allowed, 0.95) == updates_
