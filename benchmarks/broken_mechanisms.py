"""Whether neighbouring batches and sizes of batches show that a mechanism is broken, and a correct one passes.

17 steps clip or add noise wrongly, and one mechanism shuffles where it claims Poisson sampling. Five more give
something else away: their loss, their size, an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks._broken_mechanisms import LEAKS, MUTANTS, faults_of, faults_of_shuffling, private
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from fedsim.privacy.sampling import SamplingClaim, sampling_fault

_RECORDS, _RATE, _BATCHES, _LOGS = 100, 0.08, 52, 400


@experiment("broken-mechanisms", minutes=0.5, page="accounting")
def broken_mechanisms(_budget: Budget) -> Cells:
    """Return a cell of broken mechanisms, and one of correct ones."""
    return {"broken": _broken, "correct": _correct}


def _broken() -> Iterator[Row]:
    steps = [any(sentence in fault for fault in faults_of(step)) for step, sentence in MUTANTS.values()]
    shuffled = any("Poisson" in fault for fault in faults_of_shuffling())
    yield share("noticed", "clipping, noise or sampling is wrong", [*steps, shuffled], ">= 1")
    leaks = [any(sentence in fault for fault in faults_of(step)) for step, sentence in LEAKS.values()]
    yield share("noticed", "something else is given away", leaks, ">= 1")


def _correct() -> Iterator[Row]:
    yield share("noticed", "DP-SGD as it is", [bool(faults_of(private))], "<= 0")
    drawn = np.random.default_rng(0).binomial(_RECORDS, _RATE, (_LOGS, _BATCHES)).tolist()
    faults = [bool(sampling_fault(SamplingClaim(sizes, _RECORDS, _RATE))) for sizes in drawn]
    yield share("noticed", f"Poisson sampling, logs of {_BATCHES} batches", faults, "<= 0")
