"""A server that has nothing to place its bins by, and models without its layer, are refused in a sentence."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from attacks.malicious_server._imprint import check_public, explain_missing_imprint
from fedsim.core.errors import NotApplicable


class Block(nn.Sequential):
    pass


def seen(model: nn.Module, *names: str) -> Any:
    return SimpleNamespace(model=model, update=SimpleNamespace(tensors=dict.fromkeys(names)))


def test_one_example_places_no_bins() -> None:
    check_public(torch.zeros(2, 1, 4, 4))
    with pytest.raises(NotApplicable, match="places its bins by the server's own examples"):
        check_public(torch.zeros(1, 1, 4, 4))


def test_an_honest_model_and_a_hidden_layer_are_told_apart_from_an_imprint() -> None:
    crafted, both = nn.Sequential(Block(), nn.Linear(2, 2)), ("0.1.weight", "0.1.bias")
    assert explain_missing_imprint(seen(crafted, *both), Block, "0.1") is None
    assert "does not see the gradient" in str(explain_missing_imprint(seen(crafted, both[0]), Block, "0.1"))
    assert "has no imprint" in str(explain_missing_imprint(seen(nn.Sequential(nn.Linear(2, 2)), *both), Block, "0.1"))
