"""An audit recovers the noise of Opacus, of a Trainer with Opacus and of Flower's mods, and names the generator."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader

from fedsim.audit import AuditPlan, auditing
from fedsim.audit.adapters._opacus_noise import noise_of
from fedsim.audit.loading import load_subject
from fedsim.audit.noise_check import noise_note
from fedsim.audit.record import AuditRecord
from fedsim.audit.subject import NoisyMessage, Subject
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.policy import Policy
from fedsim.privacy.accounting import noise_multiplier
from fedsim.privacy.secure_optimizer import secure
from tests.audit.adapters.flower_apps import Apps
from tests.audit.adapters.privates import private
from tests.audit.adapters.trainers import Net, pictures, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning"),
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
STATE = (
    r"Broken: the noise is computable \(MT19937 \(torch CPU\), state from [\d,]+ coordinates in \d+ seconds\)\. Draw"
)
LOCAL_DP = """
import numpy
from flwr.clientapp.mod import LocalDpMod
app = ClientApp(mods=[LocalDpMod(1.0, 1.0, 1.0, 1e-5)])
"""


def audited(subject: Subject, folder: Path) -> AuditRecord:
    settings = AuditPlan(target="t", defend=False, batches=(1,), updates=1)
    return auditing.run(subject, settings, Policy(), folder, TimeBudget(40.0))


def noise_sentence(subject: Subject, seconds: float = 60.0) -> str:
    assert subject.noise is not None
    return noise_note(subject.noise, seconds)


def of_opacus(folder: Path, is_secure: bool = False, data: Any = None) -> Any:
    """Return a Trainer whose optimizer is from make_private."""
    torch.manual_seed(0)
    net = Net()
    made_private = PrivacyEngine().make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.05),
        data_loader=DataLoader(pictures(), batch_size=6),  # pyright: ignore[reportArgumentType]
        noise_multiplier=1.5,
        max_grad_norm=0.5,
    )
    model, optimizer = made_private[:2]
    if is_secure:
        secure(optimizer)
    made_trainer = trainer(folder, model, optimizers=(optimizer, None))
    made_trainer.args.remove_unused_columns = False  # the wrapper's forward names no columns
    return made_trainer


@pytest.mark.slow
def test_an_audit_of_opacus_recovers_the_state_and_names_the_remedy(tmp_path: Path) -> None:
    record = audited(load_subject(private(), "train:private"), tmp_path)
    (note,) = [note for note in record.notes if "computable" in note]
    assert re.match(STATE, note), note
    assert "optimizer = secure(optimizer)" in note


def test_a_trainer_with_opacus_states_its_mechanism(tmp_path: Path) -> None:
    subject = load_subject(of_opacus(tmp_path), "train:trainer")
    assert subject.defenses == ({"name": "dp-sgd", "delta": 1e-5, "clip": 0.5, "noise_multiplier": 1.5},)
    assert (subject.optimizer, subject.learning_rate, subject.sampling) == ("sgd", 0.05, "shuffle")
    assert next(iter(dict(subject.model.named_parameters()))) == "first.weight", "not the names of the wrapper"
    assert any("no Poisson samples" in note for note in subject.notes)


def test_secure_noise_is_named_and_not_attacked(tmp_path: Path) -> None:
    model, optimizer, loader = private()
    for subject in (
        load_subject((model, secure(optimizer), loader), "train:private"),
        load_subject(of_opacus(tmp_path, is_secure=True), "train:trainer"),
    ):
        assert subject.noise is None
        assert "The noise is not computable: ChaCha20." in subject.notes


@pytest.mark.parametrize("name", ["SecureDPOptimizer", "SecureNoise"])
def test_a_class_that_is_only_named_secure_is_not_trusted(tmp_path: Path, name: str) -> None:
    trainer = of_opacus(tmp_path)
    trainer.optimizer.__class__ = type(name, (type(trainer.optimizer),), {})
    subject = load_subject(trainer, "train:trainer")
    assert subject.noise is not None
    assert not any("ChaCha20" in note for note in subject.notes)


def test_a_strangers_clipping_under_a_known_name_is_refused() -> None:
    model, optimizer, loader = private()
    optimizer.__class__ = type("DPOptimizer", (type(optimizer),), {})
    with pytest.raises(FedsimError, match="clips with DPOptimizer, expected a single bound"):
        load_subject((model, optimizer, loader), "train:private")


def test_without_noise_nothing_is_said_of_a_generator() -> None:
    subject = load_subject(private(noise=0.0), "train:private")
    assert subject.noise is None
    assert not any("computable" in note for note in subject.notes)


@pytest.mark.parametrize("own", [False, True])
def test_drawing_noise_leaves_generators_gradients_and_accountant_as_they_were(own: bool) -> None:
    engine = PrivacyEngine()
    generator = torch.Generator().manual_seed(3) if own else None
    _, optimizer, _ = private(engine=engine, noise_generator=generator)
    for number, parameter in enumerate(optimizer.params):
        parameter.grad = torch.full_like(parameter, number)
    state, own_state = torch.get_rng_state(), torch.empty(0) if generator is None else generator.get_state()
    message = noise_of(optimizer)
    assert message.deviation == 0.5
    first, second = message.draw(), message.draw()
    assert torch.equal(torch.get_rng_state(), state)
    if generator is not None:
        assert torch.equal(generator.get_state(), own_state)
    assert all(torch.equal(first[name], second[name]) for name in first), "the next step draws the same"
    assert all(bool((p.grad == n).all()) and p.summed_grad is None for n, p in enumerate(optimizer.params))
    assert engine.accountant.history == []
    flat = torch.cat([t.flatten() for t in first.values()])
    assert len(flat) >= 4096
    assert float(flat.std()) == pytest.approx(message.deviation, rel=0.1)


def test_a_seed_of_the_noise_generator_is_guessed() -> None:
    _, optimizer, _ = private(noise_generator=torch.Generator().manual_seed(42))
    message = noise_of(optimizer)
    assert message is not None
    assert "MT19937 (torch CPU), seed 42 from" in noise_note(message, 0.0)


def test_noise_that_cannot_be_drawn_or_computed_is_not_called_broken() -> None:
    def fails() -> dict[str, torch.Tensor]:
        raise LookupError("no such step")

    assert noise_note(NoisyMessage(fails), 1.0).startswith(
        "Whether the noise is computable is not known: drawing it failed, Lookup"
    )
    found = noise_note(NoisyMessage(lambda: {"w": torch.ones(3)}), 0.0)
    assert found.startswith("The generator of the noise is not cryptographic, though the noise was not computed: ")
    assert "Broken" not in found


def test_the_seed_of_a_flower_mod_is_guessed(apps: Apps) -> None:
    seeded = ("client_app.py", "    config, node =", "    numpy.random.seed(123)\n    config, node =")
    note = noise_sentence(load_subject(apps.make(("client_app.py", "app = ClientApp()", LOCAL_DP), seeded), "app"), 0.0)
    assert note.startswith("Broken: the noise is computable (MT19937 (numpy.random.seed, RandomState), ")
    assert "seed 123 from" in note
    assert 'as_mod("local-dp", ...)' in note


MODEL = "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))"
BUFFER = "\n    {module}.register_buffer('extra', torch.zeros({size}, dtype={dtype}))\n    return model"


def with_buffer(module: str, size: int, dtype: str) -> tuple[str, str, str]:
    buffer = BUFFER.format(module=module, size=size, dtype=dtype)
    return "task.py", MODEL, MODEL.replace("    return", "    model =") + buffer


FROZEN = with_buffer("model", 12_000, "torch.float32")
COUNTED = with_buffer("model[2]", 3, "torch.int64")  # between the tensors of two layers


@pytest.mark.slow
def test_numpys_state_is_recovered_from_frozen_weights_at_the_deviation_of_the_mods_settings(apps: Apps) -> None:
    seeded = ("client_app.py", "    config, node =", "    numpy.random.seed([3, 1 << 31, 9, 77])\n    config, node =")
    app = apps.make(("client_app.py", "app = ClientApp()", LOCAL_DP), seeded, FROZEN)
    note = noise_sentence(load_subject(app, "app"))
    assert note.startswith("Broken: the noise is computable (MT19937 (numpy.random, legacy), state from"), note


def test_integers_take_draws_of_flowers_mod_too(apps: Apps) -> None:
    seeded = ("client_app.py", "    config, node =", "    numpy.random.seed(7)\n    config, node =")
    app = apps.make(("client_app.py", "app = ClientApp()", LOCAL_DP), seeded, COUNTED)
    note = noise_sentence(load_subject(app, "app"), 0.0)
    assert note.startswith("Broken: the noise is computable"), note


@pytest.mark.parametrize(
    ("mods", "expected"),
    [
        ("LocalDpMod(9.0, 2.0, 0.5, 1e-5)", 4 * math.sqrt(2 * math.log(1.25e5))),
        ("as_mod('local-dp', clip=0.5, noise_multiplier=3.0, seed=1), LocalDpMod(9.0, 2.0, 0.5, 1e-5)", None),
        ("as_mod('local-dp', clip=0.5, noise_multiplier=3.0, seed=1)", 1.5),
        ("as_mod('local-dp', clip=0.5, target_epsilon=3.0, seed=1)", 2 * 0.5 * noise_multiplier(3.0, 1e-5, 1.0, 1)),
        ("as_mod('clipping', applies='per_update'), as_mod('local-dp', seed=1)", None),
    ],
)
def test_the_deviation_of_a_mods_noise_follows_from_its_settings(apps: Apps, mods: str, expected: float | None) -> None:
    imported = "from flwr.clientapp.mod import LocalDpMod\nfrom fedsim.federation.mods import as_mod\n"
    app = apps.make(METRICS, ("client_app.py", "app = ClientApp()", f"{imported}app = ClientApp(mods=[{mods}])"))
    noise = load_subject(app, "app").noise
    assert noise.deviation == (None if expected is None else pytest.approx(expected))


METRICS = ("client_app.py", 'len(data), "loss": loss}', "len(data)}")
OWN_MOD = (
    "from fedsim.federation.mods import as_mod\napp = ClientApp(mods=[as_mod('local-dp', noise_multiplier=1.0{seed})])"
)


def own_mod(seed: str) -> tuple[str, str, str]:
    return "client_app.py", "app = ClientApp()", OWN_MOD.format(seed=seed)


def test_a_mod_of_this_package_is_secure_unless_it_has_a_seed(apps: Apps) -> None:
    subject, seeded = (load_subject(apps.make(METRICS, own_mod(seed)), "app") for seed in ("", ", seed=1"))
    assert subject.noise is None
    assert "The noise is not computable: ChaCha20." in subject.notes
    assert seeded.noise is not None
    assert not any("ChaCha20" in note for note in seeded.notes)


def test_the_noise_of_an_app_without_mods_is_no_question(apps: Apps) -> None:
    plain = load_subject(apps.make(), "app")
    assert plain.noise is None
    assert not any("computable" in note for note in plain.notes)
