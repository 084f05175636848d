"""What is kept of one arm under one seed."""

import pytest

from fedsim.experiment.sweep.folder import PlannedRun
from fedsim.report.sweep.cells import Searches, cell_of
from fedsim.report.verdict import RunJudge


@pytest.fixture
def read(records):
    def build(victims, **values):
        record = records.run([records.arm("plain", [records.attack("ig", victims)])])
        return cell_of(
            PlannedRun(digest="cafe" * 4, name="plain", values=values), RunJudge.of(record), 0, record.arms[0]
        )

    return build


def test_the_seed_is_the_plans_or_else_that_of_the_scenario(read, records):
    assert read(records.recovered(1), seed=7).seed == 7
    assert read(records.recovered(1)).seed == 3


def test_seconds_are_those_of_training_alone_and_the_utility_is_that_of_the_last_round(read, records):
    cell = read(records.recovered(2))
    assert cell.seconds == 60.0 - 2 * 12.5
    assert cell.client_rounds == 4 * 2
    assert cell.utility is not None
    assert cell.utility.value == pytest.approx(0.8)


def test_a_victim_has_its_share_of_examples_and_a_failed_search_has_none(read, records):
    half = records.victim(0, [records.item(0, psnr=30.0, ssim=0.95), records.item(1, psnr=8.0, ssim=0.05)])
    (tried,) = read([half, records.failed(1, "needs a bias"), records.failed(2, "needs a bias")]).attacks
    assert [victim.share for victim in tried.victims] == [0.5, None, None]
    assert tried.victims[0].values["psnr"] == (30.0, 8.0)
    assert not tried.victims[1].values
    assert tried.reasons == ("needs a bias",)


def test_a_search_is_judged_where_it_ended_and_still_falls_where_its_best_step_is_among_the_last(read, records):
    found = [records.item(psnr=30.0, ssim=0.95)]
    victims = [
        records.victim(0, found, converged=True),
        records.victim(1, found, converged=False, best_iteration=284),
        records.victim(2, found, best_iteration=285),
        records.failed(3),
    ]
    (tried,) = read(victims).attacks
    assert tried.searches == Searches(victims=4, gave_up=1, searched_victims=2, converged_victims=1, falling_victims=2)


def test_members_are_those_of_attacks_that_left_a_curve_and_the_time_of_findings_is_no_training(records, sweeps):
    parts = sweeps.membership("lira", 100)
    (found,) = parts["findings"]
    slow = found.model_copy(update={"seconds": 5.0})
    lost = found.model_copy(update={"label": "lost", "value": None, "items": "", "seconds": 2.0})
    record = records.run([records.arm("plain", [], findings=(slow, lost), items=parts["items"])])
    planned = PlannedRun(digest="cafe" * 4, name="plain", values={})
    cell = cell_of(planned, RunJudge.of(record), 0, record.arms[0])
    (curve,) = cell.curves
    assert (curve.finding, curve.members, curve.non_members, curve.rates) == (slow, 1000, 1000, {0.01: 0.1})
    assert curve.points == [(0.0, 0.0), (0.01, 0.1), (1.0, 1.0)]
    assert cell.findings == (slow, lost)
    assert cell.seconds == 60.0 - 5.0 - 2.0
