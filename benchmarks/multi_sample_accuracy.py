"""What multi-sample dropout is for: training loss early, test error late, for 1, 2 and 8 samples of an example.

One client trains a small convolutional network with dropout 0.5 on scikit-learn's digits: 600 steps of 32 examples,
five seeds (about three minutes). Paper's direction: both fall from 1 to 8 samples.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks._runs import arms_of  # noqa: E402
from fedsim.record import RoundRecord  # noqa: E402
from fedsim.scenario import parse  # noqa: E402

SAMPLES = (1, 2, 8)
_EARLY, _STEPS, _ROUNDS = 200, 100, 6


def trained(samples: int, seed: int, rounds: int = _ROUNDS) -> Sequence[RoundRecord]:
    """Return the rounds, of 100 steps each, of one client's training."""
    raw: dict[str, Any] = {
        "title": "multi-sample dropout",
        "seed": seed,
        "data": {"name": "digits"},
        "model": {"name": "convnet", "width": 8, "dropout": 0.5},
        "components": [{"name": "multi-sample-dropout", "samples": samples}],
        "federation": {
            "algorithm": "fedavg",
            "clients": 1,
            "rounds": rounds,
            "batch_size": 32,
            "local_steps": _STEPS,
            "optimizer": {"name": "adam", "learning_rate": 0.002},
        },
    }
    return arms_of(parse(raw, "benchmark"))[0].rounds


def measure(full: bool) -> Sequence[Row]:
    """Return loss after 200 steps (mean of the second hundred) and the last test error, over seeds."""
    seeds = range(10 if full else 5)
    rows: list[Row] = []
    for samples in SAMPLES:
        runs = [trained(samples, seed) for seed in seeds]
        early = [run[_EARLY // _STEPS - 1].training_loss for run in runs]
        errors = [100.0 * (1.0 - (run[-1].tested.get("test_accuracy") or 0.0)) for run in runs]
        setting = f"{samples} samples, dropout 0.5, digits"
        rows.append(measured("training loss, steps 101 to 200", setting, early, "nats", ""))
        rows.append(measured("test error after 600 steps", setting, errors, "%", ""))
    return rows


if __name__ == "__main__":
    main(measure, __doc__ or "")
