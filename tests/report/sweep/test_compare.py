"""Two sweeps side by side."""

import pytest
from scipy.stats import ttest_1samp

from fedsim.core.errors import FedsimError
from fedsim.metrics.comparison import holm
from fedsim.report.document import Paragraph, Table
from fedsim.report.sweep.compare import compare, comparison_blocks


def save(folder, records, sweeps, name, victims, accuracies):
    runs = [sweeps.one(records, name, seed, victims, accuracy=accuracy) for seed, accuracy in enumerate(accuracies, 1)]
    extra = (f"gradient-noise {len(accuracies)}", 1, sweeps.run(records, "gradient-noise 9", 1, victims))
    return sweeps.save(folder, records, [*runs, extra], title=folder.name)


def test_the_better_side_is_named_once_p_is_adjusted(tmp_path, records, sweeps):
    before, after = (0.90, 0.91, 0.92), (0.80, 0.82, 0.81, 0.83)
    a = save(tmp_path / "a", records, sweeps, "none", records.recovered(8), before)
    b = save(tmp_path / "b", records, sweeps, "none", records.missed(8), after)
    found = compare(a, b)
    (row,) = found.rows
    assert (row.name, found.titles) == ("none", ("a", "b"))
    assert (found.only_a, found.only_b) == (("gradient-noise 3",), ("gradient-noise 4",))
    raw = float(ttest_1samp([y - x for x, y in zip(before, after, strict=False)], 0).pvalue)
    assert row.utility.p == pytest.approx(holm([1e-4, raw])[1], rel=1e-6)
    assert (row.success.better, row.utility.better) == ("B", "A")
    assert row.success.value.value == -1.0
    assert row.utility.value.value == pytest.approx(-0.1)


def test_a_sweep_does_not_differ_from_itself_and_one_seed_shows_no_utility(tmp_path, records, sweeps):
    a = save(tmp_path / "a", records, sweeps, "none", records.recovered(8), (0.9,))
    b = save(tmp_path / "b", records, sweeps, "none", records.recovered(8), (0.5,))
    for row in (*compare(a, a).rows, *compare(a, b).rows):
        assert {row.success.better, row.utility.better} == {"no difference shown"}


def test_other_seeds_are_no_pairs_and_other_settings_are_refused(tmp_path, records, sweeps):
    a = sweeps.save(tmp_path / "a", records, [sweeps.one(records, "none", 1, records.recovered(4))])
    b = sweeps.save(tmp_path / "b", records, [sweeps.one(records, "none", 2, records.recovered(4))])
    (row,) = compare(a, b).rows
    assert row.success.better == row.utility.better == "nothing to pair"
    c = sweeps.save(tmp_path / "c", records, [("noise", 1, sweeps.run(records, "gradient-noise 1", 1, []))])
    with pytest.raises(FedsimError, match="have no setting in common"):
        compare(a, c)


def test_people_read_the_difference_of_each_setting_and_the_names_of_the_others(tmp_path, records, sweeps):
    a = save(tmp_path / "a", records, sweeps, "none", records.recovered(8), (0.90, 0.91, 0.92))
    b = save(tmp_path / "b", records, sweeps, "none", records.missed(8), (0.80, 0.82, 0.81, 0.83))
    blocks = list(comparison_blocks(compare(a, b), a, b))
    (table,) = (block for block in blocks if isinstance(block, Table))
    (row,) = table.rows
    name, success, _, better, utility, _, _ = row.cells
    assert (name.text, success.text, better.text) == ("none", "-100.0", "B")
    assert utility.text == "-10.0"
    assert " to " in utility.interval
    texts = [block.text for block in blocks if isinstance(block, Paragraph)]
    assert texts[:2] == [f"A: a ({a})", f"B: b ({b})"]
    assert texts[-2:] == ["Only A has: gradient-noise 3", "Only B has: gradient-noise 4"]
