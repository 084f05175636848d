"""A Flower app is audited as it is: its own server and client, with its mods, as folder and as archive."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.cli.build import build_fab_from_disk

from fedsim.audit import AuditPlan, auditing, verdict
from fedsim.audit.captured import read_update
from fedsim.audit.loading import load, load_subject
from fedsim.audit.record import AuditRecord
from fedsim.audit.subject import Subject, check_subject
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.policy import Policy
from tests.audit.adapters.flower_apps import EXAMPLE, Apps

MOD = """
def halved(message, context, call_next):
    reply = call_next(message, context)
    received = message.content["arrays"].to_torch_state_dict()
    sent = reply.content["arrays"].to_torch_state_dict()
    half = {name: (received[name] + sent[name]) / 2 for name in sent}
    reply.content["arrays"] = ArrayRecord(half)
    return reply

app = ClientApp(mods=[halved])
"""

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # by flwr build


def audited(path: Path, folder: Path, seconds: float = 60.0, **plan: Any) -> AuditRecord:
    folder.mkdir()
    settings = AuditPlan(target="app", **{"defend": False, **plan})
    return auditing.run(load_subject(path, "app"), settings, Policy(), folder, TimeBudget(seconds))


def moved(subject: Subject) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in subject.reply.weight_delta.values()])


def test_a_folder_and_its_archive_give_their_example_back(apps: Apps, tmp_path: Path) -> None:
    archive = tmp_path / "app.fab"
    archive.write_bytes(build_fab_from_disk(apps.make()))
    for number, path in enumerate((apps.make(), archive)):
        record = audited(load(str(path)), tmp_path / str(number))
        (arm,) = record.arms
        assert record.is_captured
        assert verdict.sentence(record) == "No defense was tried, as requested."
        assert arm.recovered_share.value == 1.0
        assert record.notes[0] == (
            "Understood: Flower app, 4 tensors are sent by its ClientApp (no mods) after 1 step of 1 example, SGD at "
            "0.1, loss cross_entropy."
        )


@pytest.mark.slow
def test_mods_are_not_repeated_in_further_trainings(apps: Apps, tmp_path: Path) -> None:
    path = apps.make(("client_app.py", "app = ClientApp()\n", MOD), ("pyproject.toml", "examples = 1", "examples = 40"))
    record = audited(path, tmp_path / "out", seconds=15.0, defend=True)
    assert record.training is None
    assert record.notes[-1] == (
        "Members and defenses of the app are not measured: the audit does not repeat its mods halved."
    )
    assert verdict.sentence(record).startswith("A captured update cannot be defended afterwards")


def test_steps_batches_and_settings_are_those_of_the_clients_own_loop(apps: Apps) -> None:
    path = apps.make(("pyproject.toml", "examples = 1", "examples = 5"), ("pyproject.toml", "size = 1", "size = 2"))
    subject = load_subject(path, "app")
    assert [len(batch) for batch in subject.reply.batches] == [2, 2, 1]
    assert (subject.local_steps, subject.learning_rate, subject.optimizer) == (3, 0.1, "sgd")
    assert "after 3 steps of 1 or 2 examples, SGD at 0.1" in subject.notes[0]
    victim = read_update(check_subject(subject, "app"), AuditPlan(target="app")).victim
    weights = {name: p.clone().requires_grad_() for name, p in subject.model.named_parameters()}
    for batch in victim.truth.batches:  # the client's loop by hand
        scores = torch.func.functional_call(subject.model, weights, (batch.inputs,))
        slopes = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, batch.labels), list(weights.values()))
        weights = {
            n: (w - 0.1 * g).detach().requires_grad_() for (n, w), g in zip(weights.items(), slopes, strict=True)
        }
    for name, p in subject.model.named_parameters():
        expected = p - weights[name]
        assert torch.allclose(victim.entry.update.tensors[name], expected, atol=1e-6)  # float32


def test_mods_are_in_place(apps: Apps) -> None:
    plain = load_subject(apps.make(), "app")
    modded = load_subject(apps.make(("client_app.py", "\napp = ClientApp()\n", MOD)), "app")
    assert "by its ClientApp (mods halved) after" in modded.notes[0]
    assert torch.allclose(moved(modded), moved(plain) / 2, atol=1e-7)  # float32


def test_a_server_that_waits_for_more_clients_gets_them(apps: Apps) -> None:
    changes = ("server_app.py", "FedAvg(", "FedAvg(min_available_nodes=8, ")
    assert load_subject(apps.make(changes), "app").reply is not None


def test_an_evaluation_before_the_first_step_is_no_training(apps: Apps) -> None:
    before = "    data = partition("
    changes = (
        "client_app.py",
        before,
        "    model.eval()(__import__('torch').rand(3, 1, 8, 8)); model.train()\n" + before,
    )
    subject = load_subject(apps.make(changes), "app")
    assert [len(batch) for batch in subject.reply.batches] == [1]


BY_HAND = "[p.data.sub_(learning_rate * p.grad) for p in model.parameters()]"
BARE_LOSS = "model(images).square().mean()"
OUTSIDE = "nn.functional.cross_entropy(2 * model(images), labels)"
CROSS = "nn.functional.cross_entropy(model(images), labels)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            (("pyproject.toml", 'serverapp = "digit_app.server_app:app"', ""),),
            r"has no serverapp in \[tool.flwr.app.components\]",
        ),
        (
            (("pyproject.toml", 'clientapp = "digit_app.client_app:app"', ""),),
            r"has no clientapp in .*, expected one as clientapp = \"package.module:app\"",
        ),
        ((("pyproject.toml", "[project]", "[project"),), "is not TOML"),
        ((("pyproject.toml", "client_app:app", "client_app:ap"),), "cannot be loaded: AttributeError.* Try `flwr"),
        ((("task.py", "lr=learning_rate", "lr=-1"),), "the ClientApp of 'app' failed: .*Invalid learning"),
        (
            (("server_app.py", "ArrayRecord(make_model().state_dict())", "ArrayRecord()"),),
            "the ClientApp of 'app' failed: RuntimeError: .*Missing key",
        ),
        (
            (("client_app.py", '{"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}', '{"m": metrics}'),),
            (
                "the reply of the ClientApp of 'app' holds 0 array records, expected a single "
                "record with the model's weights"
            ),
        ),
        ((("pyproject.toml", "examples = 1", "examples = 0"),), "it trains no torch model in this process"),
        ((("pyproject.toml", "client_app:app", "server_app:app"),), "is of type ServerApp, expected a ClientApp"),
        ((("server_app.py", "torch.manual_seed(0)", "1 / 0"),), "the ServerApp of 'app' failed: ZeroDivisionError"),
        ((("server_app.py", "    FedAvg(", "    0 and FedAvg("),), "ended without a training request"),
        ((("task.py", "optimizer.step()", BY_HAND),), "cannot be watched: it trains without an optimizer of torch"),
        ((("task.py", CROSS, BARE_LOSS),), "cannot be watched: it trains with a loss other than cross-entropy"),
        ((("task.py", CROSS, OUTSIDE),), "cannot be watched: its loss does not depend on its model's output"),
        (
            (("client_app.py", "ArrayRecord(model.state_dict())", 'ArrayRecord({"1.bias": model[1].bias.data})'),),
            "'1.weight' is trained in the ClientApp of 'app', but not among the arrays that the client answers with",
        ),
        (
            (("client_app.py", "len(data), ", "7, "), ("pyproject.toml", "examples = 1", "examples = 5")),
            "says that it trained on 7 examples, but 5 were seen",
        ),
    ],
)
def test_a_mistake_in_an_app_is_one_sentence(apps: Apps, changes: Any, message: str) -> None:
    path = apps.make(*changes)
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(path, "app")
    assert "\n" not in str(raised.value)


def archive_of(name: str, mode: int = 0o644) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as packed:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        packed.writestr(info, "text")
    return memory.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive_of("../outside.py"), "holds '../outside.py', a path that leaves its folder"),
        (archive_of("/tmp/outside.py"), "holds '/tmp/outside.py', a path that leaves its folder"),
        (archive_of("a/../../outside.py"), "a path that leaves its folder"),
        (archive_of("link", 0o120777), "holds 'link', a link, which may leave its folder"),
        (b"no archive", "cannot read .*app.fab: File is not a zip file. Build it again with `flwr build`."),
        (archive_of("readme.md"), "'app' holds no pyproject.toml, so it is not the folder of a Flower app"),
    ],
)
def test_an_archive_stays_in_its_folder(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "app.fab").write_bytes(content)
    with pytest.raises(FedsimError, match=message):
        load_subject(tmp_path / "app.fab", "app")
    assert [file.name for file in tmp_path.rglob("*")] == ["app.fab"]


def test_an_archive_of_any_size_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.audit.adapters.flower._MOST_BYTES", 3)
    (tmp_path / "app.fab").write_bytes(archive_of("pyproject.toml"))
    with pytest.raises(FedsimError, match="expected the sources of an app"):
        load_subject(tmp_path / "app.fab", "app")


def test_what_is_no_app_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"no folder or .fab file .*, searched from"):
        load_subject(tmp_path / "missing.fab", "app")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    with pytest.raises(FedsimError, match=r"has no \[tool.flwr.app\], so it is no Flower app"):
        load_subject(tmp_path, "app")
    from flwr.clientapp import ClientApp

    with pytest.raises(FedsimError, match="is only a ClientApp, without a server's weights"):
        load_subject(ClientApp(), "app")


OLD_CLIENT = """
import torch
from flwr.client import ClientApp, NumPyClient

from digit_app.task import make_model, partition, train


class Client(NumPyClient):
    def __init__(self, context):
        self.node, self.model = context.node_config, make_model()

    def fit(self, parameters, config):
        for tensor, values in zip(self.model.state_dict().values(), parameters):
            tensor.copy_(torch.tensor(values))
        data = partition(int(self.node["partition-id"]), int(self.node["num-partitions"]), 1)
        loss = train(self.model, data, 1, 0.1)
        return [tensor.numpy() for tensor in self.model.state_dict().values()], len(data), {"loss": loss}


app = ClientApp(client_fn=lambda context: Client(context).to_client())
"""
OLD_SERVER = """
import torch
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from digit_app.task import make_model


def make(context):
    torch.manual_seed(0)
    first = ndarrays_to_parameters([tensor.numpy() for tensor in make_model().state_dict().values()])
    strategy = FedAvg(fraction_evaluate=0.0, initial_parameters=first)
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))


app = ServerApp(server_fn=make)
"""


def test_an_app_of_the_old_style_with_numbered_arrays_and_threads_gives_the_same(apps: Apps) -> None:
    """Its server calls both clients at once, from threads."""
    client, server = ((EXAMPLE / "digit_app" / f"{kind}_app.py").read_text() for kind in ("client", "server"))
    path = apps.make(("client_app.py", client, OLD_CLIENT), ("server_app.py", server, OLD_SERVER))
    old, new = load_subject(path, "app"), load_subject(apps.make(), "app")
    assert torch.equal(moved(old), moved(new))
    assert [batch[0].tolist() for batch in old.loader or ()] == [batch[0].tolist() for batch in new.loader or ()]


def test_a_last_batch_that_is_left_out_is_no_reason_to_refuse(apps: Apps) -> None:
    settings = (("pyproject.toml", "examples = 1", "examples = 5"), ("pyproject.toml", "size = 1", "size = 2"))
    path = apps.make(*settings, ("task.py", "batch_size=batch_size)", "batch_size=batch_size, drop_last=True)"))
    subject = load_subject(path, "app")
    assert [len(batch) for batch in subject.reply.batches] == [2, 2]


PRIVATE = """    from opacus import PrivacyEngine
    loader = DataLoader(data, batch_size=len(data))
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=learning_rate), torch.zeros(())
    model, optimizer, _ = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=0.0, max_grad_norm=0.001
    )
    for images, labels in loader:
"""


@pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning", "ignore:Full backward hook is:UserWarning")
def test_a_client_that_trains_with_opacus_is_unwrapped(apps: Apps) -> None:
    plain = """    optimizer, loss = torch.optim.SGD(model.parameters(), lr=learning_rate), torch.zeros(())
    for images, labels in DataLoader(data, batch_size=batch_size):
"""
    open_ = load_subject(apps.make(), "app")
    private = load_subject(apps.make(("task.py", plain, PRIVATE)), "app")
    assert "SGD at 0.1" in private.notes[0]
    assert float(moved(private).norm()) == pytest.approx(0.1 * 0.001, rel=1e-3)  # Opacus adds 1e-6 to the norm
    assert torch.allclose(moved(private) / moved(private).norm(), moved(open_) / moved(open_).norm(), atol=1e-3)
    assert check_subject(private, "app").dataset.spec.classes == 10


def test_an_app_that_sends_an_adapter_of_peft_names_its_arrays_as_peft_does(apps: Apps) -> None:
    bare = "return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))"
    adapted = bare.replace("return nn.", "from peft import LoraConfig, get_peft_model\n    bare = nn.")
    adapted += '\n    return get_peft_model(bare, LoraConfig(target_modules=["3"], modules_to_save=["1"], r=2))'
    saved = "ArrayRecord(__import__('peft').get_peft_model_state_dict({}))"
    path = apps.make(
        ("task.py", bare, adapted),
        ("server_app.py", "ArrayRecord(make_model().state_dict())", saved.format("make_model()")),
        ("client_app.py", "ArrayRecord(model.state_dict())", saved.format("model")),
        ("client_app.py", "model.load_state_dict(", "__import__('peft').set_peft_model_state_dict(model, "),
    )
    subject = load_subject(path, "app")
    assert len(subject.reply.weight_delta) == 4
    assert subject.notes[0].startswith("Understood: peft LoRA, 2 tensors of rank 2 and 2 saved whole are sent")
    assert subject.notes[1].startswith("Understood: Flower app, 4 tensors are sent by its ClientApp")
