"""Pictures of representatives, and what a guess without information reaches."""

import pytest

from fedsim.report.sweep import build
from fedsim.report.sweep.pictures import blind, representatives
from tests.report.sweep.estimating import estimated

pytestmark = pytest.mark.draws


def test_the_wall_shows_controls_and_the_most_median_and_least_of_each_family(tmp_path, records, sweeps):
    runs = [sweeps.one(records, "none", 1, records.recovered(8))]
    for scale, hits in ((1, 5), (2, 0), (3, 7), (4, 3), (5, 8)):
        victims = [*records.recovered(hits), *records.missed(8)[hits:]]
        runs.append((f"noise {scale}", 1, sweeps.run(records, f"gradient-noise {scale}", 1, victims)))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    assert [point.name for point in representatives(found)] == ["none", "noise 5", "noise 1", "noise 2"]


def test_what_a_guess_without_information_reaches_is_told_of_each_data_set_and_rule(tmp_path, records, sweeps):
    runs, stored = [], {}
    rules = {"none": {"threshold": 0.5}, "strict": {"threshold": 0.9}, "lax": {"metric": "mse", "threshold": 1.0}}
    for name, rule in rules.items():
        record, stored = records.with_arrays(sweeps.run(records, "none", 1, records.recovered(8)))
        scoring = {**record.plan["scoring"], **rule}
        changed = {**record.plan, "data": {"name": "digits"}, "scoring": scoring}
        runs.append((name, 1, record.model_copy(update={"plan": changed})))
    sweep, found = estimated(sweeps.save(tmp_path, records, runs, arrays=stored))
    assert blind(sweep, found) == {
        "digits, SSIM > 0.5": pytest.approx(1 / 9),
        "digits, SSIM > 0.9": pytest.approx(1 / 9),
        "digits, MSE < 1": pytest.approx(8 / 9),
    }
    legends = (build(tmp_path).parent / "figures" / "pareto-strongest-attack.svg").read_text()
    assert legends.count("no information, digits, ") == 3
