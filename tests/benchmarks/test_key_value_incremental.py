"""The class-incremental experiment in short: the probe forgets, the bottleneck does not."""

import pytest

from benchmarks.key_value_incremental import bottleneck, interval, linear_probe, task


def test_an_interval_is_that_of_student() -> None:
    assert interval([1.0, 2.0, 3.0]) == "2.000 +- 2.484"  # 4.303 / sqrt(3)


@pytest.mark.slow
def test_a_stream_of_classes_costs_the_probe_its_first_ones_and_the_bottleneck_little() -> None:
    images = task(0)
    probe, own = linear_probe(images, epochs=30), bottleneck(images, epochs=30)
    assert probe.iid > 0.7
    assert own.iid > 0.7
    assert probe.incremental < 0.4  # two of ten classes are left
    assert own.forgetting < 0.3 * probe.forgetting
    assert bottleneck(images, epochs=30) == own
