"""Clients that train a tiny sentence encoder on real sentences, for what is measured on ESimCSE.

The folder that FEDSIM_STSB names, or shared/data beside the project, holds stsb-en-train.csv and stsb-en-dev.csv of
PhilipMay/stsb-multi-mt on GitHub.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fedsim.scenario import parse, world
from fedsim.scenario.world import World

FOLDER = Path(os.environ.get("FEDSIM_STSB", Path(__file__).parents[2] / "shared" / "data"))

SIMCSE: dict[str, Any] = {"dup_rate": 0.0, "queue_size": 0}
ARMS: dict[str, dict[str, Any]] = {
    "SimCSE": SIMCSE,
    "with repetition": {"queue_size": 0},
    "with repetition and queue": {},
}


def encoders(
    seed: int, federation: dict[str, Any], settings: dict[str, Any], model: dict[str, Any] | None = None
) -> World:
    """Return clients who share 2,000 sentences of STS-B, tested on its development pairs.

    Args:
        seed: of weights, shares and batches.
        federation: the table of a scenario.
        settings: of the component.
        model: the table of a scenario; a tiny encoder when absent.
    """
    raw: dict[str, Any] = {
        "title": "ESimCSE",
        "seed": seed,
        "data": {
            "name": "sentence-pairs",
            "path": str(FOLDER / "stsb-en-train.csv"),
            "test_path": str(FOLDER / "stsb-en-dev.csv"),
            "length": 24,
            "train": 2000,
        },
        "model": model or {"name": "tiny-encoder"},
        "components": [{"name": "esimcse", **settings}],
        "federation": federation,
    }
    return world.build(parse(raw, "benchmark"))
