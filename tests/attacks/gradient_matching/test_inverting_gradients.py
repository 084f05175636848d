"""Gradients matched by a network without dropout."""

from typing import Any

import pytest

from tests.attacks.defended import attacked

MLP = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}
CONVNET = {"name": "convnet", "width": 8, "dropout": 0.0}


@pytest.mark.parametrize("model", [MLP, pytest.param(CONVNET, marks=pytest.mark.slow)], ids=["mlp", "convnet"])
def test_without_a_defense_the_naive_attack_succeeds(model: dict[str, Any]) -> None:
    assert attacked("inverting-gradients", None, model=model)[0] > 40
