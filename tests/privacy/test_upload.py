"""Clipping and noise of one update, by hand."""

import math

import pytest
import torch
from torch import nn

from fedsim.core.types import Tensors, Update
from fedsim.privacy.upload import clip_jointly, disturb, why_buffers_move


def norm(tensors: Tensors) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("share", [0.2, 0.999, 1.001, 5.0])
def test_an_update_is_scaled_to_the_norm_that_it_may_have_and_no_further(scale: float, share: float) -> None:
    tensors = {"a": scale * torch.tensor([3.0, 0.0]), "b": scale * torch.tensor(4.0)}  # norm 5 * scale
    found = clip_jointly(tensors, share * 5.0 * scale)
    factor = min(1.0, share)
    assert norm(found) == pytest.approx(factor * 5.0 * scale, rel=1e-6)  # float32
    for name, tensor in tensors.items():
        assert torch.allclose(found[name], factor * tensor, rtol=1e-6)


def test_zeros_stay_and_what_is_not_finite_counts_as_zero() -> None:
    zeros = {"a": torch.zeros(3)}
    assert torch.equal(clip_jointly(zeros, 1.0)["a"], zeros["a"])
    for value in (math.nan, math.inf):
        found = clip_jointly({"a": torch.tensor([value, 1.0]), "b": torch.ones(2)}, 1.0)
        assert all(not bool(tensor.any()) for tensor in found.values())


def test_all_that_depends_on_the_data_is_clipped_and_noisy() -> None:
    update = Update("delta", {"a": torch.tensor([6.0, 8.0])}, {"mean": torch.ones(2)}, 17, 2.5)
    quiet = disturb(update, 5.0, 0.0, torch.add)
    assert torch.allclose(quiet.tensors["a"], torch.tensor([3.0, 4.0]))
    assert torch.equal(quiet.buffers["mean"], torch.zeros(2))
    assert (quiet.kind, quiet.examples, quiet.loss) == ("delta", 1, 0.0)
    loud = disturb(update, 5.0, 2.0, torch.add).tensors["a"]
    assert torch.equal(loud, quiet.tensors["a"] + 2.0)


def test_a_model_whose_buffers_move_is_named_and_left_as_it_was() -> None:
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert "training changes the buffer '1.running_mean'" in str(why_buffers_move(model, inputs))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    constant = nn.Linear(3, 2)
    constant.register_buffer("scale", torch.ones(2))
    assert why_buffers_move(constant, inputs) is None
    assert why_buffers_move(nn.Sequential(nn.Linear(3, 2), nn.GroupNorm(1, 2)), inputs) is None


def test_models_with_running_statistics_are_refused_and_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert "training changes the buffer '1.running_mean'" in (why_buffers_move(model, torch.ones(3, 4)) or "")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert why_buffers_move(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), torch.ones(3, 4)) is None


def test_a_buffer_that_may_move_is_no_reason_and_another_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    inputs = torch.ones(3, 4)
    assert why_buffers_move(model, inputs, lambda name: name.startswith("1.running_")) is None
    why = why_buffers_move(model, inputs, lambda name: name == "1.running_mean")
    assert "training changes the buffer '1.running_var'" in (why or "")
