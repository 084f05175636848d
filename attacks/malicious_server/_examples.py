"""Small scenarios for attacks of a malicious server, as their `example`."""

from __future__ import annotations

from fedsim.core.hooks import Tables

RELU: Tables = {"model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25, "bias": True, "activation": "relu"}}
"""One digit and an MLP with biases, ReLU and dropout."""
