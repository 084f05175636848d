"""What a language model remembers of planted secrets, by rank, by greedy text and by the search for the likeliest.

Scenario 35 without membership: numbers, phone numbers and addresses that stand in the text 0, 1, 4 or 16 times. Beside
the plain training stands the control, the same model untrained; the long version adds dropout and DP-SGD. Every
row is a mean over the secrets of one kind and number of repetitions, of one training, with its interval: bootstrap for
exposure, Wilson for shares. A search gives up behind 2,000 beginnings; the last row of an arm says how many ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, of_interval, share
from fedsim.experiment import runner
from fedsim.experiment.sweep.executors.worker import SilentWatcher
from fedsim.record import ArmRecord
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario, load, parse

_SCENARIO = Path(__file__).parent.parent / "scenarios" / "35_memorised_text.toml"
_SHORT = ("plain", "nothing learned (control)")
_SEARCH = 2000


@experiment("exposure", minutes=10, page="attacks/memorisation")
def exposure(budget: Budget) -> Cells:
    """Return a cell for each training; the long version trains with dropout and with DP-SGD too."""
    names = load(_SCENARIO, []).arms["training"]
    return {name: partial(_rows, name) for name in names if budget.full or name in _SHORT}


def _rows(name: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create(overwrite=False)
        record = runner.run(_scenario(name), folder, cast("Any", SilentWatcher()), command="benchmark", earlier=None)
    for arm in record.arms:
        yield from _of_arm(arm)


def _scenario(name: str) -> Scenario:
    raw = load(_SCENARIO, []).model_dump(mode="json")
    raw.pop("membership", None)
    raw["exposure"]["search"] = _SEARCH
    raw["arms"]["training"] = {name: raw["arms"]["training"][name]}
    return parse(raw, "benchmark")


def _of_arm(arm: ArmRecord) -> Iterator[Row]:
    secrets = arm.items["exposure/secrets"]
    for finding in arm.findings:
        assert finding.value is not None
        kind, times = finding.about["secrets"], finding.about["repetitions"]
        setting = f"{arm.name}: {kind}, {times} times"
        yield of_interval("exposure", setting, finding.value, "bits")
        yield of_interval("written greedily", setting, finding.more["secrets_written"], "share")
        yield of_interval("likeliest by search", setting, finding.more["likeliest"], "share")
    ended = [float(text is not None) for text in secrets["likeliest"]]
    yield share("searches that ended", arm.name, ended)
