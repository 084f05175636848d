"""What updates told of attributes on the page of a sweep: of one seed its own figure, of several their mean."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.record import RunRecord
from fedsim.report.sweep import build
from fedsim.report.sweep.attributes import attributes
from fedsim.report.sweep.gathered import gather
from tests.report import records
from tests.report.sweeps import save
from tests.report.tables.test_attributes import FAILED, own


def told(*asked: Any) -> RunRecord:
    return records.run([records.arm("all", [], attributes=asked)])


def test_a_row_is_an_attack_on_a_setting_and_of_several_seeds_it_tells_their_mean(tmp_path: Path) -> None:
    shares = {1: 0.6, 2: 0.7, 3: 0.8}
    runs = [("none", seed, told(own("a", "parity", share, 0.1), FAILED)) for seed, share in shares.items()]
    folder = save(tmp_path / "s", records, [*runs, ("other 1", 1, told(own("a", "parity", 0.9, 0.8)))])
    mean, failed, single = attributes(gather(folder))
    assert (mean.seeds, mean.asked.n, mean.asked.accuracy.value) == (3, "180, 9 left out", "70%")
    half = 4.302653 * 0.1 / 3**0.5  # Student's quantile of two degrees of freedom
    low, high = (float(bound) for bound in mean.asked.accuracy.interval.split(" to "))
    assert (low, high) == pytest.approx((100 * (0.7 - half), 100 * (0.7 + half)), abs=0.5)  # shown without decimals
    assert (mean.asked.permuted.value, mean.asked.chance) == ("50%", "50%")
    assert (failed.seeds, failed.asked.reason) == (3, "no tensor")
    assert (single.seeds, single.asked.accuracy.interval) == (1, "80 to 100")


def test_their_time_is_no_training_and_the_page_has_them_where_somebody_asked(tmp_path: Path) -> None:
    slow = own("a", "parity", 0.9, 0.8).model_copy(update={"seconds": 5.0})
    folder = save(tmp_path / "s", records, [("none", 1, told(slow))])
    (setting,) = gather(folder).settings
    with_it, without = (records.run([records.arm("all", [], attributes=one)]).arms[0].seconds for one in ((slow,), ()))
    assert with_it == without
    assert setting.cells[0].seconds == max(0.0, with_it - 5.0)
    page = build(folder).read_text(encoding="utf-8")
    assert "What are the data like?" in page
    assert "parity (2 values)" in page
    other = build(save(tmp_path / "t", records, [("none", 1, records.typical())])).read_text(encoding="utf-8")
    assert "What are the data like?" not in other


def test_an_interval_over_few_seeds_that_differ_ends_where_shares_end(tmp_path: Path) -> None:
    runs = [("none", seed, told(own("a", "parity", share, 0.1))) for seed, share in ((1, 0.2), (2, 0.9))]
    (row,) = attributes(gather(save(tmp_path / "s", records, runs)))
    assert row.asked.accuracy.interval == "0 to 100"
