"""What identifies a scenario and a model."""

from __future__ import annotations

import hashlib
import json

from fedsim.core.types import Tensors
from fedsim.scenario import Scenario


def scenario_hash(scenario: Scenario) -> str:
    """Return the hash that identifies what a resolved scenario runs, seed included; how it is judged is no part."""
    # A key that a scenario does not use is left out, so that its hash is that of the time before there was such a key.
    unused = {
        "task": scenario.task is None,
        "device": scenario.device == "cpu",
        "attributes": scenario.attributes is None,
        "forgetting": scenario.forgetting is None,
    }
    left_out = {"expected", "policy", "tune", *(key for key, is_unused in unused.items() if is_unused)}
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
