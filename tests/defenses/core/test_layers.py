"""A module put in the place of another."""

from torch import nn

from defenses.core.layers import with_module


def test_a_module_takes_its_place_at_any_depth_and_the_model_stays_the_same_object() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"own": nn.Sequential(nn.Linear(2, 3))}))
    new = nn.Tanh()
    assert with_module(model, "1.own.0", new) is model
    assert model.get_submodule("1.own.0") is new
    assert with_module(model, "0", new) is model
    assert model[0] is new
    assert with_module(nn.Linear(2, 2), "", new) is new
