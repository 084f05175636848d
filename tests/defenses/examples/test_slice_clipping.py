"""Slice clipping against a loop over examples and slices."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from defenses.core.slices import sensitivities, slices_of
from fedsim.core.hooks import LocalStep
from fedsim.core.nets.losses import compute_example_losses
from fedsim.core.types import Tensors
from tests.defenses.stepping import gradient, here, local_step, make, rules


class Centred(nn.Module):
    """Takes the batch's mean off."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - 0.5 * inputs.mean(0)


def clipped(local: LocalStep, **settings: float) -> Tensors:
    def losses() -> Tensor:
        return compute_example_losses(local.model(local.batch.inputs), local.batch.labels)

    loss, found = make("slice-clipping", **settings).on_examples(losses, here(local=local))
    assert loss == pytest.approx(float(losses().detach().mean()), rel=1e-6)
    return found


def looped(local: LocalStep, slices: int, norm: float) -> Tensor:
    sizes = {name: p.numel() for name, p in local.parameters.items()}
    whole = torch.cat(list(slices_of(sensitivities(local), sizes, slices).values()))
    total = torch.zeros(len(whole))
    for example in range(len(local.batch)):
        one = replace(local, batch=replace(local.batch, inputs=local.batch.inputs[example : example + 1],
                                           labels=local.batch.labels[example : example + 1]))  # fmt: skip
        joined = torch.cat([g.flatten() for g in gradient(one).values()])
        for number in range(slices):
            part = torch.where(whole == number, joined, torch.zeros(()))
            total += part * min(1.0, norm / max(float(part.norm()), 1e-30))
    return total / len(local.batch)


@pytest.mark.paper_step("slice-clipping", "each example clipped in each slice")
@pytest.mark.parametrize("norm", [1e-3, 0.05, 1e6])
def test_every_example_is_clipped_in_every_slice(norm: float) -> None:
    local = local_step()
    joined = torch.cat([g.flatten() for g in clipped(local, slices=4, norm=norm).values()])
    torch.testing.assert_close(joined, looped(local, 4, norm), rtol=1e-4, atol=1e-7)


def test_an_empty_batch_has_a_gradient_of_zeros() -> None:
    local = local_step()
    empty = replace(local, batch=replace(local.batch, inputs=local.batch.inputs[:0], labels=local.batch.labels[:0]))
    loss, found = make("slice-clipping").on_examples(lambda: torch.zeros(0), here(local=empty))
    assert math.isnan(loss)
    assert not any(bool(own.any()) for own in found.values())


def test_it_refuses_what_mixes_examples_and_stands_beside_grad_defense() -> None:
    model = local_step().model.train()
    assert make("slice-clipping").refuses(rules(), model) is None
    assert make("slice-clipping").refuses(rules(batch_readers=("GradDefense",)), model) is None
    assert "CutMix works on whole batches" in str(
        make("slice-clipping").refuses(rules(batch_readers=("CutMix",)), model)
    )
    assert "FedProx is not clipped" in str(make("slice-clipping").refuses(rules(loss_terms=("FedProx",)), model))
    mixing = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), Centred()).train()
    assert "mixes the examples" in str(make("slice-clipping").refuses(rules(), mixing))
