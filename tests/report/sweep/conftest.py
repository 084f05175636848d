"""A typical sweep, and its page."""

import pytest

from fedsim.report.sweep import build

POLICY = {"max_recovered": 0.2, "max_accuracy_loss": 0.05}


@pytest.fixture(scope="session")
def typical(tmp_path_factory, records, sweeps, page_of, drawn):
    folder = tmp_path_factory.mktemp("sweep") / "s"
    runs = sweeps.typical(records)
    record, arrays = records.with_arrays(runs[0][2])
    runs = [(name, seed, records.with_arrays(one)[0]) for name, seed, one in runs]
    sweeps.save(folder, records, runs, policy=POLICY, arrays=arrays)
    assert record.arms
    return folder, page_of(drawn(build, folder).read_text(encoding="utf-8"))
