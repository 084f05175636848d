"""The audited copy trains with each module in the mode in which the user returned it."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fedsim.audit import subject
from fedsim.audit.single_client import world_of
from fedsim.audit.training import evaluate
from fedsim.audit.update_attacks import updates
from tests.audit.subjects import examples, plan


def normalised(*, frozen: tuple[int, ...]) -> nn.Module:
    """Return a model with dropout (4) and a batch normalisation (2), whose statistics are those of no batch."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(12)
    norm.running_mean, norm.running_var = torch.linspace(-1.0, 1.0, 12), torch.linspace(0.5, 2.0, 12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 2))
    for number in frozen:
        model[number].eval()
    return model


@pytest.mark.parametrize("size", [1, 2])
def test_a_client_trains_with_frozen_batch_normalisation_as_the_user_does(size: int) -> None:
    model = normalised(frozen=(2, 4))
    own = subject.check_subject(subject.Subject(copy.deepcopy(model), None, DataLoader(examples(), 4)), "frozen")
    world = world_of(own, plan(), size)
    evaluate(world, world.models.first_weights)  # the one training model has been in evaluation mode since
    seen = next(updates(world))
    (batch,) = seen.truth.batches
    loss = nn.functional.cross_entropy(model(batch.inputs), batch.labels)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
        assert torch.allclose(seen.entry.update.tensors[name], gradient, atol=1e-6), name  # float32
    assert torch.equal(world.models.workspace.model.state_dict()["2.running_mean"], torch.linspace(-1.0, 1.0, 12))
    assert world.models.sites == ()


def test_each_module_keeps_the_mode_that_the_user_gave_it() -> None:
    own = subject.check_subject(subject.Subject(normalised(frozen=(2,)), None, DataLoader(examples(), 4)), "frozen")
    for made in (own.model, own.new_model(), own.new_model().eval().train(), world_of(own, plan(), 2).models.new()):
        assert [name for name, module in made.named_modules() if not module.training] == ["2"]
    assert [site.rate for site in world_of(own, plan(), 2).models.sites] == [0.5]
    assert not any(module.training for module in own.new_model().eval().modules())
    assert own.notes[0].startswith("Modules that were returned in evaluation mode stay in it: BatchNorm1d.")


def test_a_model_that_comes_in_evaluation_mode_stays_in_it_and_the_audit_says_so() -> None:
    loader = DataLoader(examples(), 4)
    own = subject.check_subject(subject.Subject(normalised(frozen=()).eval(), None, loader), "pretrained")
    assert not any(module.training for module in own.new_model().train().modules())
    assert world_of(own, plan(), 2).models.sites == ()
    assert "BatchNorm1d, Dropout, Flatten, Linear, ReLU. If the client calls model.train() first" in own.notes[0]
    trains = subject.check_subject(subject.Subject(normalised(frozen=()), None, loader), "trains")
    assert all(module.training for module in trains.new_model().modules())
    assert not any("evaluation mode" in note for note in trains.notes)
