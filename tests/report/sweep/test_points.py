"""Losses, differences and their p-values, paired with the control."""

import pytest

from fedsim.metrics.comparison import holm
from tests.report.sweep.estimating import estimated


def test_losses_and_differences_are_paired_with_the_control(tmp_path, records, sweeps):
    runs = []
    for seed, (before, after) in enumerate(((0.90, 0.85), (0.80, 0.78), (0.95, 0.85)), 1):
        runs.append(sweeps.one(records, "none", seed, records.recovered(4), accuracy=before))
        mixed = [*records.recovered(2), *records.missed(4)[2:]]
        runs.append(("noise", seed, sweeps.run(records, "gradient-noise 1", seed, mixed, accuracy=after)))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    noise = found[1]
    assert noise.loss.value == pytest.approx((0.05 + 0.02 + 0.10) / 3)
    assert noise.success_difference.value == pytest.approx(-0.5)
    assert noise.p == pytest.approx(2 / 2**6)
    assert found[0].success_difference is None


def test_p_values_are_adjusted_for_all_settings(tmp_path, records, sweeps):
    one = sweeps.typical(records, seeds=(1,))
    names = [f"gradient-noise {scale}" for scale in range(5)]
    many = [sweeps.one(records, "none", 1, records.recovered(8))]
    many += [sweeps.one(records, name, 1, records.missed(8)) for name in names]
    raw = 2 / 2**8
    assert estimated(sweeps.save(tmp_path / "one", records, one))[1][2].p == pytest.approx(holm([1.0, raw])[1])
    assert estimated(sweeps.save(tmp_path / "many", records, many))[1][5].p == pytest.approx(5 * raw)


def test_the_strongest_attacker_counts_and_one_who_knows_the_masks_does_not(tmp_path, records, sweeps):
    masks = records.attack("wiig", records.recovered(4), knows=("labels", "masks"))
    aware = records.attack("aware", [*records.recovered(2), *records.missed(4)[2:]], knows=("labels", "defenses"))
    run = sweeps.run(records, "gradient-noise 1", 1, records.missed(4), attacks=[masks, aware])
    _, (point,) = estimated(sweeps.save(tmp_path, records, [("noise", 1, run)]))
    assert (point.strongest.attack, point.strongest.rate.value) == ("aware", 0.5)
    assert (point.unaware.attack, point.unaware.rate.value) == ("ig", 0.0)
