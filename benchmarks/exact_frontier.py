"""Exact attacks beyond dense first layers: a LeNet's images by second-order steps, a transformer's batches by zeros.

Labels are inferred, masks unknown; seconds are those of one core. Without ``--full``: few victims a setting (about
half an hour). With it: 10 victims a setting (hours), a control of normalised networks, the table of networks by
batch, dropout and training, and the largest batch of a transformer that is exact by rate, width and patch.

``--only TEXT`` runs the settings that contain a text: ``--full --only table`` the table of networks (about an hour),
``--full --only control`` the control, ``--full --only largest`` the largest batches. ``--seconds S`` stops an attack of
a setting at its first step after S processor seconds: a few updates of a batch take hours, and stay undecided.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import math  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402

import torch  # noqa: E402

from benchmarks import _frontier_control, _frontier_table, _patch_rows  # noqa: E402
from benchmarks._budget import Outcome, attack_within  # noqa: E402
from benchmarks._frontier_cases import CASES, Case  # noqa: E402
from benchmarks._frontier_gap import measure_gaps  # noqa: E402
from benchmarks._rows import Row, as_json, as_table, as_they_come, measured  # noqa: E402
from benchmarks._victims import victims_of  # noqa: E402
from fedsim.core import registry  # noqa: E402
from fedsim.core.errors import NotApplicable  # noqa: E402

_ALL = 10
_EXACT, _EXACT_IN_BATCH = 80.0, 60.0  # dB


def measure(full: bool, only: str = "", seconds: float = math.inf) -> Iterator[Row]:
    """Yield the rows of the short or the long version.

    Args:
        full: ten victims a setting, and the table of networks.
        only: a part of the settings to run.
        seconds: of the processor, after which an attack of a setting is stopped and its update counts as not exact.
    """
    torch.set_num_threads(1)
    for case in CASES:
        if only in case.setting:
            yield from _rows(case, _ALL if full else case.few, seconds)
    yield from measure_gaps(only)
    if full:
        yield from _frontier_control.measure(only)
        yield from _frontier_table.measure(only, seconds)
    yield from _patch_rows.measure(full, only)


def _rows(case: Case, victims: int, budget: float) -> Iterator[Row]:
    try:
        outcomes = list(_attack(case, victims, budget))
    except NotApplicable as reason:
        yield measured(f"refused: {reason}", case.setting, [1.0], "share", "")
        return
    bound = _EXACT if case.batch_size == 1 else _EXACT_IN_BATCH
    yield _share(
        f"updates with every image > {bound:g} dB", case, [outcome.worst > bound for outcome in outcomes], case.share
    )
    if math.isfinite(budget):
        yield _share(f"stopped after {budget:g} s", case, [outcome.guess is None for outcome in outcomes])
    guesses = [outcome.guess for outcome in outcomes]
    yield _share("called exact", case, [guess is not None and guess.is_exact for guess in guesses])
    yield measured("worst PSNR of an update", case.setting, [outcome.worst for outcome in outcomes], "dB", "")
    steps = [float(guess.iterations if guess is not None else 0) for guess in guesses]
    yield measured("steps", case.setting, steps, "steps", "")
    yield measured(
        "processor seconds an update", case.setting, [outcome.seconds for outcome in outcomes], "s", case.seconds
    )


def _share(name: str, case: Case, are_so: Sequence[bool], must: str = "") -> Row:
    shares = list(map(float, are_so))
    return measured(name, case.setting, shares, "share", must, value=statistics.mean(shares))


def _attack(case: Case, victims: int, budget: float) -> Iterator[Outcome]:
    method = registry.get("attack", case.attack)
    attack = method.make(method.config.model_validate(dict(case.settings)))
    for number, victim in enumerate(victims_of(case.data, case.model, victims, batch_size=case.batch_size)):
        yield attack_within(budget, attack, victim, number)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--full", action="store_true", help="the long version")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the settings that contain this text")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="of the processor, for each update of a setting"
    )
    chosen = parser.parse_args()
    rows = as_they_come(measure(chosen.full, chosen.only, chosen.seconds))
    print(as_json(rows) if chosen.json else as_table(rows))


if __name__ == "__main__":
    main()
