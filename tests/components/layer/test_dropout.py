"""One rate for all dropout layers of a model, found in calls and in attention."""

import pytest
import torch
from torch import nn

from fedsim.components.layer.dropout import Dropout, DropoutConfig
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import dropout_sites


def prepared(model: nn.Module, rate: float) -> nn.Module:
    return Dropout(DropoutConfig(rate=rate)).prepare(model, torch.Generator())


@pytest.mark.paper_step("dropout", "rate of every dropout layer; torch draws and scales the masks")
def test_every_kind_of_dropout_layer_gets_the_rate_and_weights_stay() -> None:
    model = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), nn.Dropout1d(0.7), nn.Linear(8, 8)
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert prepared(model, 0.4) is model
    sites = dropout_sites(model, (5, 8), 2)
    assert len(sites) == 5
    assert {site.rate for site in sites} == {0.4}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_rate_of_nothing_leaves_no_mask() -> None:
    model = prepared(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9)), 0.0)
    inputs = torch.ones(2, 3)
    assert torch.equal(model.train()(inputs), model[0](inputs))  # type: ignore[index]


def test_a_model_without_dropout_is_refused() -> None:
    with pytest.raises(NotApplicable, match="the model has no dropout layer"):
        prepared(nn.Linear(3, 4), 0.5)
