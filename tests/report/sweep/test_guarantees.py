"""Guarantees, and the floor on epsilon."""

import itertools

import numpy as np
import pytest
from scipy.stats import beta

from fedsim.privacy.accounting import Spent, epsilon
from fedsim.report.sweep import build
from fedsim.report.sweep.curves import average_roc
from fedsim.report.sweep.guarantees import floors
from tests.report.sweep.estimating import estimated, judged


def test_a_guarantee_is_stated_with_whom_it_holds_against(tmp_path, records, sweeps):
    runs = sweeps.typical(records, seeds=(1,))
    guarded = sweeps.run(records, "gradient-noise 2.0", 1, records.missed(8), guarantees=(records.guarantee(),))
    folder = sweeps.save(tmp_path, records, [*runs, ("dp 2.0", 1, guarded)], policy={"max_epsilon": 2.0})
    verdict, _ = judged(folder)
    assert verdict.strong == "dp 2.0 keeps every threshold."
    assert verdict.caveat.startswith("Guaranteed: epsilon 1.84 at delta 1e-05")


def test_the_price_of_choosing_among_private_runs_stands_beside_that_of_one(tmp_path, records, sweeps):
    """Two settings of two seeds with equal steps: four times as many steps were spent on the same data."""
    stated = records.guarantee(noise_multiplier=4.0, sampling_rate=1.0, steps=1, epsilon=0.93)
    runs = [
        sweeps.one(records, name, seed, records.missed(8), guarantees=(stated,))
        for name, seed in itertools.product(("gradient-noise 1.0", "gradient-noise 2.0"), (1, 2))
    ]
    folder = sweeps.save(
        tmp_path, records, [*sweeps.typical(records, seeds=(1, 2)), *runs], policy={"max_epsilon": 2.0}
    )
    verdict, _ = judged(folder)
    composed = epsilon([Spent(4.0, 1.0, 4)], stated.delta).value
    assert "That is the epsilon of a single run. Choosing among 4 private runs on the same data" in verdict.caveat
    assert f"costs epsilon {composed:.3g}, since all runs of the known number count" in verdict.caveat


def test_the_floor_on_epsilon_is_that_of_its_docstring(tmp_path, records, sweeps):
    runs = []
    for (name, hits), seed in itertools.product((("none", 100), ("gradient-noise 1", 10)), (1, 2)):
        judged_by = sweeps.membership("lira", hits)
        runs.append(sweeps.one(records, name, seed, records.recovered(4), **judged_by))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    tpr, fpr = beta.ppf(0.025, 200, 1801), beta.ppf(0.975, 21, 1980)
    assert [floor.floor for floor in floors(found)] == pytest.approx([np.log(tpr / fpr), 0.0])
    assert found[0].membership.rate.value == 0.1
    assert average_roc(found[0].setting, "lira") == [(0.0, 0.0), (0.01, 0.1), (1.0, 1.0)]


def test_membership_has_curves_and_floors_in_the_page(tmp_path, records, sweeps, page_of):
    runs = [
        sweeps.one(records, name, 1, [], **sweeps.membership("lira", 100), guarantees=stated)
        for name, stated in (("none", ()), ("gradient-noise 1", (records.guarantee(),)))
    ]
    page = page_of(build(sweeps.save(tmp_path, records, runs, policy={"max_membership_tpr": 0.05})).read_text())
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert {"membership", "epsilon"} <= set(ids)
    assert "members found at 1% false alarms 10.0%" in page.text
    assert "1 in 10" in page.text
