"""The output layer where the order of registration, the width and the place disagree."""

from __future__ import annotations

import pytest
from torch import nn

from fedsim.core.nets.output_layer import output_layer

CLASSES = 3


class Scaled(nn.Linear):
    """A linear layer of another class."""


def name_of(model: nn.Module, classes: int | None = None) -> str | None:
    found = output_layer(model, classes)
    return None if found is None else found[0]


@pytest.mark.parametrize("classes", [None, CLASSES], ids=["unknown", "known"])
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, CLASSES)), "2"),
        (nn.Sequential(nn.Linear(4, CLASSES), nn.ReLU(), nn.Linear(CLASSES, CLASSES)), "2"),
        (nn.Sequential(nn.Linear(4, CLASSES, bias=False), nn.Softplus(), nn.Dropout()), "0"),
        (nn.Sequential(nn.Linear(4, 5), Scaled(5, CLASSES)), "1"),
        (nn.Linear(4, CLASSES), ""),
        (nn.Sequential(nn.Conv2d(1, CLASSES, 2), nn.Flatten()), None),
        (nn.ReLU(), None),
    ],
    ids=["last", "twice as wide", "no bias", "subclass", "the model itself", "none", "no parameters"],
)
def test_the_last_linear_layer_gives_the_outputs(model: nn.Module, expected: str | None, classes: int | None) -> None:
    assert name_of(model, classes) == expected
    if expected is not None:
        assert output_layer(model, classes) == (expected, model.get_submodule(expected))


def test_a_layer_of_another_width_behind_it_hides_it_only_from_who_does_not_know_the_width() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, CLASSES), "second_head": nn.Linear(4, 2)})
    assert name_of(model, CLASSES) == "head"
    assert name_of(model) == "second_head"


@pytest.mark.parametrize(
    "behind", [nn.LayerNorm(CLASSES), nn.BatchNorm1d(CLASSES), nn.PReLU()], ids=lambda m: type(m).__name__
)
def test_without_the_width_a_module_with_parameters_behind_it_leaves_no_output_layer(behind: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, CLASSES), behind)
    assert name_of(model, CLASSES) == "0"
    assert name_of(model) is None


def test_a_hidden_linear_layer_of_a_network_that_ends_in_a_convolution_is_none() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, CLASSES, 1), nn.Flatten())
    assert name_of(model) is None
    assert name_of(model, CLASSES) is None


def test_a_frozen_output_layer_is_one() -> None:
    assert name_of(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, CLASSES).requires_grad_(False))) == "1"
