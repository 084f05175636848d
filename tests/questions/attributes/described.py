"""A small scenario whose attributes are asked for."""

from typing import Any

NAMES = ("label", "parity", "brightness")
SMALL: dict[str, Any] = {
    "data": {"name": "digits", "test_fraction": 0.5},
    "model": {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.0},
    "federation": {"clients": 40, "batch_size": 1, "engine": "vectorized"},
    "threat": {"victims": 40, "keep_updates": False},
    "attributes": {"public": 30, "attacks": [{"name": "change-norms", "attribute": name} for name in NAMES]},
}
