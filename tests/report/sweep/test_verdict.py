"""What a sweep claims of defenses, and what it refuses to claim."""

import pytest

from fedsim.judgement.policy import Policy
from fedsim.report.sweep import build
from fedsim.report.sweep.verdict import judge_setting
from tests.report.sweep.estimating import estimated, judged

POLICY = {"max_recovered": 0.2, "max_accuracy_loss": 0.05}


def test_without_thresholds_nothing_is_judged(tmp_path, records, sweeps):
    verdict, _ = judged(sweeps.save(tmp_path, records, sweeps.typical(records)))
    assert (verdict.level, verdict.checks) == ("", ())
    assert verdict.strong == "No thresholds are stated, so nothing is judged."


def left_by(tmp_path, records, sweeps, victims, policy=None):
    runs = [
        sweeps.one(records, name, seed, victims(name)) for name in ("none", "gradient-noise 1.0") for seed in (1, 2)
    ]
    verdict, levels = judged(sweeps.save(tmp_path, records, runs, policy=policy))
    assert levels == []
    return verdict


@pytest.mark.parametrize(
    ("policy", "end"),
    [
        (None, "No thresholds are stated."),
        ({"max_accuracy_loss": 0.5}, "The stated thresholds do not limit that share, and 2 of 2 settings break none."),
    ],
)
def test_where_every_setting_leaves_everything_none_is_named_as_good(tmp_path, records, sweeps, policy, end):
    verdict = left_by(tmp_path, records, sweeps, lambda _name: records.recovered(8), policy)
    assert (verdict.strong, verdict.level, verdict.caveat) == ("No setting protects.", "", "")
    assert verdict.after.strip().startswith("Each of 2 settings leaves 100% of the images")
    assert verdict.after.endswith(end)
    assert "none" not in verdict.after.replace("break none", "")
    assert "gradient-noise" not in verdict.after


def test_a_threshold_for_what_is_left_is_broken_by_settings_that_leave_everything(tmp_path, records, sweeps):
    verdict = left_by(tmp_path, records, sweeps, lambda _name: records.recovered(8), {"max_recovered": 0.2})
    assert (verdict.strong, verdict.level) == ("No setting keeps every threshold.", "broken")


def test_attacks_that_recovered_a_part_did_not_fail(tmp_path, records, sweeps):
    def half(name):
        return records.recovered(8) if name == "none" else records.recovered(4) + records.missed(4)

    caveat = left_by(tmp_path, records, sweeps, half).caveat
    assert caveat == "Not a guarantee: the attacks that were tried recovered a part, another may recover more."
    (tmp_path / "missed").mkdir()
    none = left_by(
        tmp_path / "missed", records, sweeps, lambda name: records.recovered(8) if name == "none" else records.missed(8)
    )
    assert none.caveat == "Not a guarantee: the attacks that were tried failed, another may succeed."
    assert "gradient-noise 1.0" in none.after


def test_thresholds_that_nothing_meets_are_said_so_with_what_comes_nearest(tmp_path, records, sweeps):
    folder = sweeps.save(tmp_path, records, sweeps.typical(records), policy={**POLICY, "max_accuracy_loss": 0.015})
    verdict, _ = judged(folder)
    assert verdict.strong == "No setting keeps every threshold."
    assert "comes nearest, and misses: accuracy loss 2.0% (2.0 to 2.0), allowed 1.5%" in verdict.after
    assert [check.level for check in verdict.checks] == ["kept", "broken"]


def test_searches_that_did_not_converge_are_no_evidence_however_many(tmp_path, records, sweeps):
    missed = records.missed(8, converged=False)
    runs = [
        sweeps.one(records, name, seed, victims)
        for name, victims in (("none", records.recovered(8)), ("gradient-noise 1.0", missed))
        for seed in (1, 2, 3)
    ]
    verdict, _ = judged(sweeps.save(tmp_path, records, runs, policy={"max_recovered": 0.2}))
    assert verdict.level == "undecided"
    assert "On 24 victims no search converged" in verdict.after


def test_too_few_victims_are_undecided(tmp_path, records, sweeps):
    verdict, _ = judged(sweeps.save(tmp_path, records, sweeps.typical(records), policy={"max_recovered": 0.05}))
    assert verdict.level == "undecided"
    assert "add seeds or victims to decide" in verdict.after


def test_what_was_not_measured_or_not_guaranteed_is_not_kept(tmp_path, records, sweeps):
    policy = {"max_membership_tpr": 0.5, "max_epsilon": 8.0}
    verdict, _ = judged(sweeps.save(tmp_path, records, sweeps.typical(records), policy=policy))
    assert [(check.measured_value, check.level) for check in verdict.checks] == [
        ("nothing", "not measured"),
        ("no guarantee", "broken"),
    ]


def test_a_control_that_fails_forbids_any_verdict(tmp_path, records, sweeps, page_of):
    runs = [sweeps.one(records, name, 1, records.missed(8)) for name in ("none", "gradient-noise 1.0")]
    folder = sweeps.save(tmp_path, records, runs, policy=POLICY)
    verdict, levels = judged(folder)
    assert levels == ["alarm"]
    assert (verdict.strong, verdict.level) == ("Nothing can be judged.", "")
    page = page_of(build(folder).read_text())
    assert ("div", {"class": "banner alarm", "role": "alert"}) in page.tags


def test_a_sweep_without_control_says_so(tmp_path, records, sweeps):
    runs = [sweeps.one(records, "gradient-noise 1.0", 1, records.missed(8))]
    assert judged(sweeps.save(tmp_path, records, runs))[1] == ["caution"]


def test_an_epsilon_that_reaches_the_limit_keeps_it(tmp_path, records, sweeps):
    for epsilon, light in ((2.0, "kept"), (2.001, "broken")):
        stated = (records.guarantee(epsilon=epsilon),)
        runs = [
            sweeps.one(records, "none", 1, records.recovered(8), guarantees=stated),
            sweeps.one(records, "gradient-noise 1.0", 1, records.missed(8), guarantees=stated),
        ]
        verdict, _ = judged(sweeps.save(tmp_path / f"{epsilon}", records, runs, policy={"max_epsilon": 2.0}))
        assert [check.level for check in verdict.checks] == [light]


def test_a_guarantee_that_trusts_the_server_does_not_keep_the_limit_on_epsilon(tmp_path, records, sweeps):
    runs = sweeps.typical(records, seeds=(1,))
    trusting = records.guarantee(source="dp-fedavg", holds_against_server=False, adversary="clients")
    guarded = sweeps.run(records, "gradient-noise 2.0", 1, records.missed(8), guarantees=(trusting,))
    folder = sweeps.save(tmp_path, records, [*runs, ("dp 2.0", 1, guarded)], policy={"max_epsilon": 2.0})
    verdict, _ = judged(folder)
    assert verdict.level == "broken"
    (guarded,) = (point for point in estimated(folder)[1] if point.name == "dp 2.0")
    (check,) = judge_setting(guarded, Policy(max_epsilon=2.0)).checks
    assert (check.level, check.measured_value) == ("broken", "1.84, not against the server")
    local = records.guarantee(epsilon=1.9)
    both = sweeps.run(records, "gradient-noise 2.0", 1, records.missed(8), guarantees=(trusting, local))
    other = sweeps.save(tmp_path / "both", records, [*runs, ("dp 2.0", 1, both)], policy={"max_epsilon": 2.0})
    kept, _ = judged(other)
    assert (kept.strong, kept.level) == ("dp 2.0 keeps every threshold.", "kept")
    assert [check.measured_value for check in kept.checks] == ["1.9"]


def test_a_limit_on_members_is_held_against_every_attack(tmp_path, records, sweeps):
    """The attack with the larger estimate has few members, so that its interval holds the limit."""
    few, many = sweeps.membership("few", 5, n=20), sweeps.membership("many", 200)
    both = {"findings": (*few["findings"], *many["findings"]), "items": {**few["items"], **many["items"]}}
    run = sweeps.run(records, "none", 1, records.recovered(8), **both)
    folder = sweeps.save(tmp_path, records, [("none", 1, run)], policy={"max_membership_tpr": 0.15})
    _, (point,) = estimated(folder)
    assert point.membership.attack == "few"
    verdict, _ = judged(folder)
    (check,) = verdict.checks
    assert (check.level, check.measured_value[:5]) == ("broken", "20.0%")


def test_an_unmeasured_limit_is_undecided_and_named(tmp_path, records, sweeps):
    policy = {"max_membership_tpr": 0.5, "max_recovered": 0.5}
    verdict, _ = judged(sweeps.save(tmp_path, records, sweeps.typical(records), policy=policy))
    assert verdict.level == "undecided"
    assert verdict.strong == "gradient-noise 1.0 may keep every threshold."
    assert "Not measured: members found at 1% false alarms. Add attacks that measure it." in verdict.after
    assert [check.level for check in verdict.checks] == ["kept", "not measured"]
