"""Three models that nobody changed: one of torchvision, one of transformers, one with a layer of its own."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fedsim.audit import audit_client, loading, subject
from fedsim.audit.record import AuditPlan
from fedsim.audit.single_client import world_of
from fedsim.federation.client import local_training

FACTORIES = ("of_torchvision", "of_transformers", "with_a_custom_layer")


@pytest.fixture(autouse=True)
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def made(name: str) -> subject.Subject:
    import foreign

    return loading.load_subject(getattr(foreign, name), name)


@pytest.mark.parametrize("name", FACTORIES)
def test_what_is_attacked_is_the_gradient_that_the_model_itself_has(name: str) -> None:
    own = made(name)
    sound = subject.check_subject(own, name)
    world = world_of(sound, AuditPlan(target=name), 2)
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    model, batch = own.model.train(), truth.batches[0]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    bare = subject.check_subject(subject.Subject(model, own.loss, own.loader), name)
    undropped, _ = local_training(world_of(bare, AuditPlan(target=name), 2), world.models.first_weights, 1, 0)
    output = model(batch.inputs)
    scores = output if isinstance(output, torch.Tensor) else output.logits
    loss = (own.loss or F.cross_entropy)(scores, batch.labels)
    expected = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    for (parameter, _), gradient in zip(model.named_parameters(), expected, strict=True):
        assert torch.allclose(undropped.tensors[parameter], gradient, atol=1e-6)
    assert update.tensors.keys() == undropped.tensors.keys()


# The end of a share of time may fall into a callback that swallows it, with a warning; the signal comes again.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORIES)
def test_a_whole_audit_of_a_foreign_model(tmp_path: Path, name: str) -> None:
    record = audit_client(lambda: made(name), batches=(1,), minutes=0.5, out=tmp_path)
    found = record.client[0]
    assert not found.failure
    assert found.recovered_share is not None
    assert sum(len(victim.scores) for victim in found.victims) > 0
    assert record.training is not None
    assert (tmp_path / "audit.html").exists()


@pytest.mark.slow
def test_a_loss_that_no_attack_can_differentiate_leaves_the_answer_open(tmp_path: Path) -> None:
    record = audit_client(lambda: made("with_a_loss_of_one_derivative"), batches=(1,), minutes=0.5, out=tmp_path)
    found = record.client[0]
    assert found.is_unknown
    assert all("multi_margin_loss_backward is not implemented" in (victim.failure or "") for victim in found.victims)
