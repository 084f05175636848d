"""What a language model remembers of planted secrets, by rank, by greedy text and by the search for the likeliest.

Scenario 35 without membership: numbers, phone numbers and addresses that stand in the text 0, 1, 4 or 16 times. Beside
the plain training stands the control, the same model untrained; the long version adds dropout and DP-SGD. Every
row is a mean over the secrets of one kind and number of repetitions, of one training, with its interval: bootstrap for
exposure, Wilson for shares. A search gives up behind 2,000 beginnings; the last row of an arm says how many ended.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import tempfile  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, cast  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from fedsim.experiment import runner  # noqa: E402
from fedsim.experiment.sweep.executors.worker import SilentWatcher  # noqa: E402
from fedsim.record import ArmRecord, Interval  # noqa: E402
from fedsim.record.store import RunFolder  # noqa: E402
from fedsim.scenario import Scenario, load, parse  # noqa: E402

_SCENARIO = Path(__file__).parent.parent / "scenarios" / "35_memorised_text.toml"
_SHORT = ("plain", "nothing learned (control)")
_SEARCH = 2000


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version trains with dropout and with DP-SGD too."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create(overwrite=False)
        record = runner.run(_scenario(full), folder, cast("Any", SilentWatcher()), command="benchmark", earlier=None)
    return [row for arm in record.arms for row in _of_arm(arm)]


def _scenario(full: bool) -> Scenario:
    raw = load(_SCENARIO, []).model_dump(mode="json")
    raw.pop("membership", None)
    raw["exposure"]["search"] = _SEARCH
    chosen = raw["arms"]["training"]
    raw["arms"]["training"] = {name: settings for name, settings in chosen.items() if full or name in _SHORT}
    return parse(raw, "benchmark")


def _of_arm(arm: ArmRecord) -> Iterator[Row]:
    secrets = arm.items["exposure/secrets"]
    for finding in arm.findings:
        assert finding.value is not None
        kind, times = finding.about["secrets"], finding.about["repetitions"]
        setting = f"{arm.name}: {kind}, {times} times"
        rows = zip(secrets["kind"], secrets["repetitions"], secrets["exposure"], strict=True)
        exposures = [bits for its_kind, its_times, bits in rows if (its_kind, its_times) == (kind, times)]
        yield measured("exposure", _with_bounds(setting, finding.value), exposures, "bits", "", finding.value.value)
        yield _share("written greedily", setting, finding.more["secrets_written"])
        yield _share("found by search", setting, finding.more["likeliest"])
    ended = [float(text is not None) for text in secrets["likeliest"]]
    yield measured("searches that ended", arm.name, ended, "share", "", sum(ended) / len(ended))


def _share(name: str, setting: str, share: Interval) -> Row:
    hits = round(share.value * share.n)
    each = [1.0] * hits + [0.0] * (share.n - hits)
    return measured(name, _with_bounds(setting, share), each, "share", "", share.value)


def _with_bounds(setting: str, interval: Interval) -> str:
    return setting if interval.low is None else f"{setting}, mean [{interval.low:.3g}, {interval.high:.3g}]"


if __name__ == "__main__":
    main(measure, __doc__ or "")
