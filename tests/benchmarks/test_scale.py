"""What is priced at a size that nobody runs: lines and sums against arithmetic by hand."""

import pytest

from benchmarks.scale import Cluster, Laws, Line, Plan, fit, price


def test_a_line_is_found_and_read_one_decade_further() -> None:
    sizes = [1e5, 1e6, 1e7]
    line = fit(sizes, [3.0 + 2e-6 * size for size in sizes])
    assert line.start == pytest.approx(3.0)
    assert line.at(1e8) == pytest.approx(203.0)
    assert fit(sizes, [1e-6 * size for size in sizes]).at(1e8) == pytest.approx(100.0)


def test_a_plan_is_limited_by_the_memory_of_its_machines() -> None:
    flat = Line(0.0, 1.0)
    laws = Laws(
        step_seconds=flat, step_mb=Line(0.0, 512.0), update_seconds=Line(2.0, 0.0), server_mb=flat, sent_bytes=flat
    )
    found = price(Plan(10, 3, 5.0, steps=2), laws, Cluster(machines=2, cores=64, gib=10.0, gigabits=1e-9))
    assert found.parallel_clients == 2 * 4  # 2.5 GiB a client, 10 GiB a machine
    assert found.client_gib == 2.5
    assert found.terabytes == pytest.approx(2 * 5.0 * 30 / 1e12)
    assert found.client_hours * 3600 == pytest.approx(2 * 3 * 2 * 5.0)  # two waves a round
    assert found.server_hours * 3600 == pytest.approx(60.0)
    assert found.link_hours * 3600 == pytest.approx(8 * 2 * 5.0 * 30)
    assert found.hours == pytest.approx(found.client_hours + found.server_hours + found.link_hours)
