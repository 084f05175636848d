"""Hashes of scenarios and models."""

from __future__ import annotations

import hashlib
import json

from fedsim.core.types import Tensors
from fedsim.scenario import Scenario


def scenario_hash(scenario: Scenario) -> str:
    """Return the hash of a resolved scenario, seed included; policy and tuning are excluded."""
    described = scenario.model_dump(mode="json", exclude={"policy", "tune"})
    canonical = json.dumps(described, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def model_hash(weights: Tensors) -> str:
    """Return a hash of the names and bits of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
