"""Curves count every victim alike."""

import numpy as np
import pytest

from fedsim.report.sweep.curves import shares_above
from tests.report.sweep.estimating import estimated


def test_curves_count_every_victim_alike_and_leave_failed_ones_out(tmp_path, records, sweeps):
    victims = [records.victim(0, [records.item(0, psnr=10.0, ssim=0.1), records.item(1, psnr=30.0, ssim=0.9)])]
    victims += [records.victim(1, [records.item(psnr=20.0, ssim=0.6)]), records.failed(2)]
    _, (point,) = estimated(sweeps.save(tmp_path, records, [sweeps.one(records, "none", 1, victims)]))
    found = shares_above(point.setting.victims("ig"), "psnr", np.array([5.0, 15.0, 25.0, 30.0]))
    assert found == pytest.approx([1.0, 3 / 4, 1 / 4, 0.0])
    assert point.strongest.rate.value == pytest.approx(3 / 4)
    assert point.strongest.rate.n == 2
