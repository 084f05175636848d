"""Updates from elsewhere: files in both formats, and the reply of a Flower ClientApp."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.audit import AuditPlan, Subject, auditing
from fedsim.audit.captured import model_holding, read_tensors, read_update
from fedsim.audit.evidence import doubts
from fedsim.audit.record import AuditRecord
from fedsim.audit.subject import check_subject
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.policy import Policy

HERE = Path(__file__).parent
Write = Callable[[Path, dict[str, torch.Tensor]], Path]


@pytest.fixture(autouse=True)
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def as_npz(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path = folder / "captured.npz"
    np.savez(path, **{name: tensor.detach().numpy() for name, tensor in tensors.items()})
    return path


def as_safetensors(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    from safetensors.torch import save_file

    path = folder / "captured.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    return path


def model_and_gradient() -> tuple[torch.nn.Module, dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return a model, the gradient of one image under dropout, and two images."""
    from clients import images, perceptron

    torch.manual_seed(4)
    model = perceptron()
    inputs, labels = (tensor[:2] for tensor in images().tensors)
    gradient = torch.autograd.grad(F.cross_entropy(model(inputs[:1]), labels[:1]), list(model.parameters()))
    return model, dict(zip(dict(model.named_parameters()), gradient, strict=True)), inputs, labels


def audited(folder: Path, subject: Subject, **settings: object) -> AuditRecord:
    plan = AuditPlan.model_validate({"target": "test:make", "batches": (1,), "minutes": 1.0, **settings})
    return auditing.run(subject, plan, Policy(), folder, TimeBudget(60.0))


@pytest.mark.parametrize("write", [as_npz, as_safetensors])
def test_gradients_and_weights_from_files_give_the_image_back(tmp_path: Path, write: Write) -> None:
    from clients import perceptron

    model, gradient, inputs, labels = model_and_gradient()
    (tmp_path / "weights").mkdir()
    files = {
        "gradients": write(tmp_path, gradient),
        "weights": write(tmp_path / "weights", dict(model.state_dict())),
    }
    architecture = perceptron()  # with other weights: those of the file count
    record = audited(tmp_path, Subject(architecture, loader=[(inputs, labels)], test=[(inputs, labels)]), **files)
    (victim,) = record.client[0].victims
    assert victim.scores[0].values["psnr"] > 60
    assert record.defense_arms == ()


@pytest.mark.parametrize(("steps", "kind"), [(1, "gradient"), (2, "delta")])
def test_a_file_holds_a_gradient_of_one_step_or_the_change_of_several(tmp_path: Path, steps: int, kind: str) -> None:
    model, gradient, inputs, labels = model_and_gradient()
    subject = check_subject(
        Subject(model, loader=[(inputs, labels)], test=[(inputs, labels)], local_steps=steps), "test"
    )
    sent = read_update(
        subject, AuditPlan(target="test:make", batches=(2,), gradients=as_npz(tmp_path, gradient))
    ).victim.entry.update
    assert (sent.kind, sent.examples, sent.loss) == (kind, 2, 0.0)  # the loss is not known
    assert all(torch.equal(sent.tensors[name], own) for name, own in gradient.items())


def test_without_originals_the_guess_is_shown_and_not_scored(tmp_path: Path) -> None:
    model, gradient, inputs, _ = model_and_gradient()
    record = audited(tmp_path, Subject(model, shape=(1, 8, 8)), gradients=as_npz(tmp_path, gradient))
    (found,) = record.client
    (finding,) = found.attacks
    assert (finding.value, finding.failure, finding.state) == (None, "", "undecided")
    assert doubts(found, record.plan.scoring.rule) == ("the originals are unknown, so nothing was scored",)
    assert "the labels of the batch" not in " ".join(record.threat_model)
    with np.load(tmp_path / "audit.npz") as arrays:
        guess = arrays["captured/1/guesses"]
    assert float(np.square(guess[0] - inputs[0].numpy()).mean()) < 1e-6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.pt", b"", r"ends in '.pt', expected .safetensors or .npz: a pickled file could run code"),
        ("g.npz", b"not a zip", "cannot read arrays from"),
        ("g.safetensors", b"\x08\0\0\0\0\0\0\0{broken}", "cannot read tensors from"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FedsimError, match=message):
        read_tensors(tmp_path / name)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", bomb=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(FedsimError, match="it holds Python objects, which could run code"):
        read_tensors(tmp_path / "g.npz")


def test_gradients_of_another_model_are_refused(tmp_path: Path) -> None:
    model, gradient, inputs, labels = model_and_gradient()
    subject = Subject(model, loader=[(inputs, labels)])
    strange = {"1.weights": gradient["1.weight"], **gradient}
    with pytest.raises(FedsimError, match=r"holds '1.weights', which the model does not train. Did you"):
        audited(tmp_path, subject, gradients=as_npz(tmp_path, strange))
    with pytest.raises(FedsimError, match=r"lacks '4.bias', which the model trains"):
        audited(tmp_path, subject, gradients=as_npz(tmp_path, {n: g for n, g in gradient.items() if n != "4.bias"}))
    with pytest.raises(FedsimError, match="no file"):
        audited(tmp_path, subject, gradients=tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.to(torch.complex64), "captured.npz holds '4.bias' of type torch.complex64, expected"),
        (lambda g: g > 0, r"captured.npz holds '4.bias' of type torch.bool, expected floating-point numbers\.$"),
        (lambda g: g[:1], r"holds '4.bias' of shape \(1,\), expected \(4,\), as in the model\.$"),
    ],
)
def test_what_is_no_gradient_is_refused(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    model, gradient, inputs, labels = model_and_gradient()
    subject = Subject(model, loader=[(inputs, labels)])
    with pytest.raises(FedsimError, match=message):
        audited(tmp_path, subject, gradients=as_npz(tmp_path, {**gradient, "4.bias": change(gradient["4.bias"])}))
    (tmp_path / "weights").mkdir()
    weights = {**model.state_dict(), "4.bias": change(model.state_dict()["4.bias"])}
    files = {"gradients": as_npz(tmp_path, gradient), "weights": as_npz(tmp_path / "weights", weights)}
    with pytest.raises(FedsimError, match=message):
        audited(tmp_path, subject, **files)


def test_one_name_of_tied_weights_is_enough() -> None:
    first = torch.nn.Linear(4, 4, bias=False)
    last = torch.nn.Linear(4, 4, bias=False)
    last.weight = first.weight
    subject = check_subject(
        Subject(torch.nn.Sequential(first, last), loader=[(torch.rand(4, 4), torch.arange(4))]), "tied"
    )
    held = model_holding(subject, {"0.weight": torch.eye(4)}, Path("w.npz")).state_dict()
    assert torch.equal(held["1.weight"], torch.eye(4))
    with pytest.raises(FedsimError, match="does not fit the model"):
        model_holding(subject, {}, Path("w.npz"))


def test_the_reply_of_a_client_app_is_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import apps

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.config.fedskel]\npasses = 1\n")

    record = audited(tmp_path, apps.make(), client_app="apps:app")
    (found,) = record.client
    assert found.batch_size == apps.EXAMPLES
    assert [len(victim.scores) for victim in found.victims] == [apps.EXAMPLES]
    assert found.recovered_share.value == 1.0


def test_the_reply_of_a_client_app_points_as_its_gradient_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import apps

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.config.fedskel]\npasses = 1\n")
    subject = check_subject(apps.make(), "test")
    sent = read_update(subject, AuditPlan(target="test:make", client_app="apps:app")).victim.entry.update
    model = subject.new_model()
    inputs, labels = apps.images(apps.EXAMPLES).tensors
    torch.manual_seed(1)  # as the app does: the same dropout
    gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    assert (sent.kind, sent.examples, sent.loss) == ("delta", apps.EXAMPLES, 0.0)  # the loss is not known
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        # a difference of weights of about 0.1 has their rounding, about 1e-8
        torch.testing.assert_close(sent.tensors[name], apps.RATE * gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("apps:broken", "the ClientApp 'apps:broken' failed: LookupError: no partition"),
        ("apps:short", r"the reply of 'apps:short' and the model of the factory do not agree about '4.bias'\.$"),
        ("apps:make", "is of type function, expected a flwr.clientapp.ClientApp"),
    ],
)
def test_a_client_app_that_fails_is_one_sentence(tmp_path: Path, name: str, message: str) -> None:
    import apps

    with pytest.raises(FedsimError, match=message):
        audited(tmp_path, apps.make(), client_app=name)


def test_masks_of_a_captured_update_cannot_be_granted(tmp_path: Path) -> None:
    import apps

    with pytest.raises(FedsimError, match="the dropout masks of a captured update are unknown"):
        audited(tmp_path, apps.make(), client_app="apps:app", knows=("masks",))
