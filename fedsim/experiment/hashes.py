"""What identifies a scenario and a model."""

from __future__ import annotations

import hashlib
import json

from fedsim.core.types import Tensors
from fedsim.scenario import Scenario


def scenario_hash(scenario: Scenario) -> str:
    """Return the hash that identifies what a resolved scenario runs, seed included; how it is judged is no part."""
    left_out = {"expected", "policy", "tune"}
    if scenario.task is None:  # so that a scenario that names no task has the hash that it always had
        left_out.add("task")
    if scenario.device == "cpu":  # likewise
        left_out.add("device")
    if scenario.attributes is None:
        left_out.add("attributes")
    described = scenario.model_dump(mode="json", exclude=left_out)
    if scenario.secure_aggregation is not None and scenario.secure_aggregation.least_contributors == 1:
        del described["secure_aggregation"]["least_contributors"]
    if not scenario.scoring.ceiling:
        del described["scoring"]["ceiling"]
    canonical = json.dumps(described, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def model_hash(weights: Tensors) -> str:
    """Return a hash of names and bits of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
