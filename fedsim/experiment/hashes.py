"""What identifies a scenario and a model."""

from __future__ import annotations

import hashlib
import json

from fedsim.core.types import Tensors
from fedsim.scenario import Scenario


def scenario_hash(scenario: Scenario) -> str:
    """Return the hash that identifies what a resolved scenario runs, seed included; how it is judged is no part."""
    described = scenario.model_dump(mode="json", exclude={"expected", "policy", "tune"})
    canonical = json.dumps(described, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def model_hash(weights: Tensors) -> str:
    """Return a hash of names and bits of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
