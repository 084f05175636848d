"""Attacks beside the ceilings of guarantees."""

import math

import numpy as np
import pytest

from fedsim.metrics.statistics import wilson
from fedsim.record import Finding, Interval
from fedsim.report.ceilings import marks
from fedsim.report.verdict import RunJudge
from fedsim.report.writing import build


def membership():
    auc = Interval(value=0.6, low=0.55, high=0.65, n=1000)
    advantage = Interval(value=0.1, low=None, high=None, n=1000)
    return Finding(
        question="membership",
        label="lira",
        method="lira",
        scope={"target": "model", "members": 500, "non_members": 500},
        metric="tpr_at_fpr_0.01",
        value=Interval(value=0.03, low=0.02, high=0.05, n=500),
        chance_level=0.01,
        extra_metrics={"auc": auc, "advantage": advantage},
    )


def marked(records, attacks, **changes):
    own = records.guarantee(**changes)
    record, arrays = records.with_arrays(
        records.run([records.arm("noisy", attacks, guarantees=(own,), findings=(membership(),))])
    )
    return marks(record, arrays, RunJudge.of(record)), arrays


def test_ceilings_are_those_of_the_bounds_with_the_chance_of_a_blind_guess(records):
    found, arrays = marked(records, [records.attack("dia", records.missed())], epsilon=1.0, delta=1e-3)
    by_kind = {mark.quantity.split(",")[0]: mark for mark in found}
    assert set(by_kind) == {"membership", "reconstruction"}
    member, image = by_kind["membership"], by_kind["reconstruction"]
    assert (member.measured_value, member.low, member.high, member.prior) == (0.03, 0.02, 0.05, 0.01)
    assert member.ceiling == pytest.approx(math.e * 0.01 + 1e-3)
    originals = np.concatenate([value for name, value in arrays.items() if name.endswith("originals")])
    assert len(originals) == 4
    assert image.prior == pytest.approx(1 / 5)  # random pictures: their mean recovers none
    assert image.ceiling == pytest.approx(math.e / 5 + 1e-3)
    assert (image.measured_value, image.low) == (0.0, 0.0)


@pytest.mark.parametrize(("clients", "batch"), [(1, 16), (4, 4)])
def test_the_interval_is_over_updates_whose_images_share_one_fate(records, clients, batch):
    attack = records.attack("dia", records.recovered(clients, batch))
    found, _ = marked(records, [attack])
    (image,) = (mark for mark in found if mark.quantity.startswith("reconstruction"))
    expected = wilson(clients, clients)
    assert (image.measured_value, image.low, image.high) == (expected.value, expected.low, expected.high)
    assert image.low == pytest.approx({1: 0.2065, 4: 0.5101}[clients], abs=1e-4)  # of 16 images it would be 0.806


def test_an_audited_floor_stands_beside_the_epsilon_that_it_belongs_to(records, tmp_path):
    audit = Finding(
        question="audit",
        label="dp-sgd",
        metric="epsilon_lower_bound",
        value=Interval(value=1.25, low=1.25, high=None, n=100),
        chance_level=3.0,
    )
    own = records.guarantee(source="dp-sgd")
    arm = records.arm("noisy", [records.attack("dia", records.missed())], guarantees=(own,), findings=(audit,))
    record, arrays = records.with_arrays(records.run([arm]))
    assert {mark.floor for mark in marks(record, arrays, RunJudge.of(record))} == {1.25}
    page = build(records.save(tmp_path / "run", record, arrays)).read_text(encoding="utf-8")
    assert "An audit of noisy proved epsilon at least 1.25." in page
    other = audit.model_copy(update={"label": "local-dp"})
    strange = records.run([record.arms[0].model_copy(update={"findings": (*record.arms[0].attacks, other)})])
    assert {mark.floor for mark in marks(strange, arrays, RunJudge.of(strange))} == {None}


def test_a_server_that_is_trusted_is_not_bounded_and_no_noise_bounds_nobody(records):
    attacks = [records.attack("dia", records.recovered())]
    found, _ = marked(records, attacks, holds_against_server=False)
    assert {mark.quantity for mark in found} == {"membership, FPR 0.01"}
    found, _ = marked(records, attacks, epsilon=math.inf, rdp_epsilon=math.inf)
    assert found == ()


def test_the_report_draws_them_with_their_data(tmp_path, records):
    own = records.guarantee()
    record, arrays = records.with_arrays(
        records.run([records.arm("noisy", [records.attack("dia", records.missed())], guarantees=(own,))])
    )
    page = build(records.save(tmp_path / "run", record, arrays)).read_text(encoding="utf-8")
    assert "figures/epsilon-1.csv" in page
    assert "dia in noisy reached 0% of" in page
    assert (tmp_path / "run" / "figures" / "epsilon-1.csv").read_text().startswith("arm,method,epsilon")
