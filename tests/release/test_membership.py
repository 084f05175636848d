"""Attacks that train no model find members of a model that knows them by heart, and none of one that never saw them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.metrics.membership import auc_interval
from fedsim.record import Finding
from fedsim.release import finished, membership
from tests.release import hospital


def findings(tmp_path: Path, seed: int, **more: object) -> list[Finding]:
    model = finished.read(hospital.plan(hospital.saved(tmp_path, seed), **more))
    return list(membership.find(model, 0))


def named(those: list[Finding], label: str, metric: str = "auc") -> Finding:
    return next(one for one in those if (one.label, one.metric) == (label, metric))


def test_members_of_a_model_that_knows_them_by_heart_are_told(tmp_path: Path) -> None:
    those = findings(tmp_path, 1)
    loss, lucky = named(those, "loss-threshold"), named(those, "loss-threshold, control")
    assert (loss.value.low or 0) > 0.7
    assert (loss.p_value, loss.n, loss.state) == (0.001, 240, "recovered")
    assert (lucky.value.low or 0) < 0.5 < (lucky.value.high or 0)
    assert named(those, "label-only").state == "recovered"
    rate, of_luck = (named(those, label, "tpr_at_fpr_0.01") for label in ("loss-threshold", "loss-threshold, control"))
    assert rate.chance_level == of_luck.value.value > 0.01


def test_the_auc_is_that_of_the_question(tmp_path: Path) -> None:
    model = finished.read(hospital.plan(hospital.saved(tmp_path, 1)))
    answers = hospital.trained_on(1)
    with torch.no_grad():
        inside, outside = (
            -torch.nn.functional.cross_entropy(answers(batch.inputs).double(), batch.labels, reduction="none").numpy()
            for batch in (model.members, model.non_members)
        )
    loss = named(list(membership.find(model, 0)), "loss-threshold")
    # The same order of the same losses: equal up to the rounding of a mean of 14,400 comparisons.
    assert loss.value.value == pytest.approx(auc_interval(inside, outside, np.random.default_rng(0)).value, abs=1e-3)


def test_a_model_that_never_saw_them_tells_nobody(tmp_path: Path) -> None:
    assert not [one for one in findings(tmp_path, 3) if one.role == "attack" and (one.p_value or 1) < 0.01]


@pytest.mark.slow
def test_what_repeats_another_attack_or_does_not_fit_has_its_reason(tmp_path: Path) -> None:
    failed = {one.label: one.failure for one in findings(tmp_path, 3) if one.failure}
    assert failed["drawn-loss"] == "gives the scores of loss-threshold here"
    assert "needs the global models of at least two rounds" in failed["loss-trajectory"]
    assert not {"rmia", "calibrated", "lira"} & failed.keys()


def test_a_reference_without_members_serves_attacks_that_ask_for_shadow_models(tmp_path: Path) -> None:
    those = findings(tmp_path, 1, reference=hospital.saved(tmp_path, 4))
    # Half of the others are the attacker's: 120 members and 60 others remain.
    assert [named(those, name).n for name in ("rmia", "calibrated")] == [180, 180]
    assert named(those, "rmia").state == "recovered"
    assert "tpr_at_fpr_0.01" not in {one.metric for one in those if one.role == "attack" and not one.failure}
