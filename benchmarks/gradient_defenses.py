"""Defenses on gradients: what a naive and an informed attacker see, and what training loses.

Leakage: one FedSGD gradient of two digits, dense network without dropout, untrained, four victims. The naive attacker
is Inverting Gradients; the informed one is the same or `map-estimate`, granted the description of the defenses,
whichever sees more. Accuracy: after ten rounds of FedAvg, ten clients, ten steps a round.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row
from benchmarks._runs import arms_of
from fedsim.record import ArmRecord
from fedsim.scenario import parse

SWEEPS: dict[str, list[dict[str, Any]]] = {
    "clipping": [{"norm": norm} for norm in (0.1, 1.0)],
    "gradient-noise": [
        *({"scale": scale} for scale in (1e-3, 1e-2, 1e-1)),
        {"scale": 1e-2, "law": "laplace"},
        {"scale": 1.0, "relative": True},
    ],
    "pruning": [*({"rate": rate} for rate in (0.5, 0.9, 0.99)), {"rate": 0.99, "error_feedback": True}],
    "random-pruning": [{"rate": rate} for rate in (0.5, 0.9)],
    "sign": [{"scaled": True}],
    "qsgd": [{"levels": levels} for levels in (1, 16)],
    "quantisation": [{"bits": bits} for bits in (1, 2, 4, 8)],
    "float16": [{}],
    "soteria": [{"rate": rate} for rate in (0.4, 0.8)],
    "outpost": [{}],
    "grad-defense": [{"scale": scale} for scale in (1e-2, 1e-1)],
    "slice-clipping": [{"norm": norm} for norm in (1e-3, 1e-2, 1e-1)],
}
MODEL = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}
SEARCH = {"max_iterations": 400, "schedule": "steps", "priors": [{"name": "total-variation", "weight": 1e-4}]}


@experiment("gradient-defenses", minutes=20, page="defenses/README")
def gradient_defenses(_budget: Budget) -> Cells:
    """Return a cell for each defense, and one for none."""
    return {name: partial(_swept, name, sweep) for name, sweep in {"none": [{}], **SWEEPS}.items()}


def _swept(defense: str, sweep: Sequence[dict[str, Any]]) -> Iterator[Row]:
    for settings in sweep:
        yield from _rows(defense, settings)


def _rows(defense: str, settings: dict[str, Any]) -> Iterator[Row]:
    """Yield PSNR of the naive and of the informed attacker, and the accuracy."""
    tables = [{"name": defense, **settings}] if defense != "none" else []
    words = ", ".join([defense, *(f"{key} {value}" for key, value in settings.items())])
    naive, *informed = _psnr(_leakage(tables))
    yield median_row("PSNR, naive", words, naive, "dB")
    if informed:
        yield median_row("PSNR, informed", words, max(informed, key=_median), "dB")
    yield median_row("accuracy", words, [_accuracy(tables)], "share")


def _leakage(defenses: list[dict[str, Any]]) -> ArmRecord:
    granted = {"also_knows": ["defenses"], **SEARCH}
    attacks = [{"name": "inverting-gradients", "label": "naive", **SEARCH}]
    if defenses:
        attacks.append({"name": "inverting-gradients", "label": "informed", **granted})
    if defenses and defenses[0]["name"] in ("gradient-noise", "grad-defense"):
        attacks.append({"name": "map-estimate", "label": "map", **granted})  # the label decides where it starts
    scenario = {
        "title": "gradient defenses",
        "seed": 5,
        "data": {"name": "digits"},
        "model": MODEL,
        "federation": {"clients": 10, "batch_size": 2},
        "defenses": defenses,
        "threat": {"knows": ["labels", "batch-size", "dropout-rates", "input-statistics"], "victims": 4},
        "attacks": attacks,
    }
    return arms_of(parse(scenario, "benchmark"))[0]


def _psnr(arm: ArmRecord) -> list[list[list[float]]]:
    """Return the PSNR of every image, by attack and victim."""
    return [
        [[item.values["psnr"] for item in victim.scores] for victim in attack.victims if victim.scores]
        for attack in arm.attacks
    ]


def _median(by_victim: list[list[float]]) -> float:
    return statistics.median(itertools.chain.from_iterable(by_victim))


def _accuracy(defenses: list[dict[str, Any]]) -> float:
    scenario = {
        "title": "gradient defenses",
        "seed": 5,
        "data": {"name": "digits"},
        "model": MODEL,
        "federation": {
            "clients": 10, "rounds": 10, "batch_size": 16, "algorithm": "fedavg", "local_steps": 10,
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
        },
        "defenses": defenses,
    }  # fmt: skip
    rounds = arms_of(parse(scenario, "benchmark"))[0].rounds
    accuracies = [one.test_metrics["test_accuracy"] for one in rounds if "test_accuracy" in one.test_metrics]
    return accuracies[-1] if accuracies else 0.0
