"""What make_private returns is audited as it is: unwrapped, with its clip, noise and sampling."""

import warnings
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit.loading import load_subject
from fedsim.audit.subject import Subject, check_subject
from fedsim.core.errors import FedsimError
from tests.audit.adapters.privates import BATCH, EXAMPLES, private, tensors
from tests.audit.adapters.recovering import share

pytestmark = pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning")


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"wrap_model": False}, marks=pytest.mark.slow),
        pytest.param({"grad_sample_mode": "functorch"}, marks=pytest.mark.slow),
    ],
)
def test_clip_noise_rate_and_sampling_are_those_of_the_optimizer(more: Any) -> None:
    triple = private(**more)
    subject = load_subject(triple, "train:private")
    assert subject.defenses == ({"name": "dp-sgd", "delta": 1e-5, "clip": 0.5, "noise_multiplier": 1.0},)
    assert (subject.sampling, subject.optimizer, subject.learning_rate) == ("poisson", "sgd", 0.05)
    assert subject.notes[0] == (
        "Understood: Opacus, 4 tensors are sent; each step is dp-sgd with delta 1e-05, clip 0.5, noise multiplier 1 "
        "and Poisson sampling of 8 examples (--batch-sizes 8 attacks such steps)."
    )
    names = dict(subject.model.named_parameters())
    assert list(names) == ["1.weight", "1.bias", "3.weight", "3.bias"], "not those of the wrapper"
    wrapped = triple[0]
    wrapped._module(torch.rand(2, 1, 8, 8, requires_grad=True)).sum().backward()
    assert wrapped._module[1].weight.grad_sample is not None, "the user's own model keeps its hooks"


def test_every_example_of_the_data_is_read_once() -> None:
    triple = private()
    subject = load_subject(triple, "train:private")
    rows = torch.cat([images for images, _ in subject.loader])
    assert torch.equal(rows, triple[2].dataset.tensors[0])


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_the_claimed_epsilon_is_that_of_its_accountant(accountant: str) -> None:
    triple = private(engine=PrivacyEngine(accountant=accountant))
    other = create_accountant(accountant)
    for _ in range(EXAMPLES // BATCH):
        other.step(noise_multiplier=1.0, sample_rate=BATCH / EXAMPLES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an accountant says so where its orders end
        expected = other.get_epsilon(1e-5)
    claim = load_subject(triple, "train:private").notes[1]
    assert claim == f"Opacus ({accountant}) claims epsilon {expected:.3g} at delta 1e-05 for one pass of 5 steps."


def test_steps_that_were_taken_are_what_is_claimed() -> None:
    engine = PrivacyEngine()
    triple = private(engine=engine)
    engine.accountant.history = [(1.0, 0.2, 3)]
    assert load_subject(triple, "train:private").notes[1].endswith("for the 3 steps of the training.")


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda: private()[0], "returns no loader with the model and optimizer of Opacus. Return the result of"),
        (lambda: PrivacyEngine(accountant="rdp"), "gives PrivacyEngine, but no wrapped model of Opacus"),
        (
            lambda: private(clip=[0.5] * 4, clipping="per_layer"),  # type: ignore[arg-type]
            "clips with DPPerLayerOptimizer, expected a single bound. Call make_private with clipping='flat'",
        ),
        (lambda: private(poisson_sampling=False), "has a DataLoader in place of the DPDataLoader, so batches are no"),
    ],
)
def test_a_mistake_is_one_sentence(thing: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(thing(), "train:private")
    assert "\n" not in str(raised.value)
    assert "train:private" in str(raised.value)


def test_ghost_clipping_brings_its_loss() -> None:
    quadruple = private(grad_sample_mode="ghost", criterion=nn.CrossEntropyLoss())
    subject = load_subject(quadruple, "train:private")
    assert isinstance(subject.loss, nn.CrossEntropyLoss)


def test_one_example_comes_back_without_noise() -> None:
    assert share(load_subject(private(noise=0.0, clip=1e6), "train:private")) == 1.0


NAMED = {"name": "dp-sgd", "clip": 0.25, "noise_multiplier": 3.0, "delta": 1e-6}


def without_optimizer(**attributes: float) -> tuple[Any, ...]:
    model, _, loader = private()
    vars(model).update(attributes)
    return model, nn.CrossEntropyLoss(label_smoothing=0.1), loader


def test_the_optimizer_can_be_left_out_if_the_user_names_clip_and_noise() -> None:
    model, loss, loader = without_optimizer()
    other = {"name": "pruning", "rate": 0.5}
    given = Subject(model, loss, loader, learning_rate=0.02, defenses=(other, NAMED), notes=("Mine.",))
    subject = load_subject(given, "train:private")
    assert subject.defenses == (other, NAMED)
    assert (subject.sampling, subject.loss, subject.learning_rate) == ("poisson", loss, 0.02)
    assert list(dict(subject.model.named_parameters())) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert subject.notes[0].endswith(
        "each step is dp-sgd with clip 0.25, noise multiplier 3, delta 1e-06 and Poisson sampling of 8 examples "
        "(--batch-sizes 8 attacks such steps)."
    )
    assert subject.notes[1:] == (
        "Mine.",
        "The optimizer of make_private was not given, so the audit simulates sgd with learning rate 0.02, no "
        "accountant of Opacus claims an epsilon, and it is not known whether the generator of the noise is "
        "cryptographic.",
    )
    assert check_subject(subject, "train:private").is_scored


def test_the_optimizer_can_be_left_out_if_clip_and_noise_are_on_the_model() -> None:
    subject = load_subject(without_optimizer(max_grad_norm=0.75, noise_multiplier=2.0), "train:private")
    assert subject.defenses == ({"name": "dp-sgd", "delta": 1e-5, "clip": 0.75, "noise_multiplier": 2.0},)
    assert isinstance(subject.loss, nn.CrossEntropyLoss)
    plain = load_subject((*without_optimizer(max_grad_norm=0.75, noise_multiplier=0.0)[::2], None), "train:private")
    assert (plain.loss, plain.defenses[0]["noise_multiplier"]) == (None, 0.0)


@pytest.mark.parametrize("known", [{}, {"max_grad_norm": 0.5}, {"noise_multiplier": 1.0}])
def test_unknown_clip_or_noise_is_refused_with_a_way_out(known: dict[str, float]) -> None:
    for thing in (without_optimizer(**known), Subject(*without_optimizer(**known), defenses=({"name": "pruning"},))):
        with pytest.raises(FedsimError, match=r"no DPOptimizer of Opacus, so clip and noise are unknown.*defenses=\("):
            load_subject(thing, "train:private")


def test_a_loader_without_poisson_sampling_is_refused_without_the_optimizer_too() -> None:
    model, loss, _ = without_optimizer()
    loader = DataLoader(TensorDataset(*tensors()), batch_size=BATCH)
    with pytest.raises(FedsimError, match="has a DataLoader in place of the DPDataLoader"):
        load_subject(Subject(model, loss, loader, defenses=(NAMED,)), "train:private")


def test_the_loss_of_ghost_clipping_brings_the_optimizer() -> None:
    model, optimizer, loss, loader = private(grad_sample_mode="ghost", criterion=nn.CrossEntropyLoss())
    whole, short = (
        load_subject(thing, "train:private") for thing in ((model, optimizer, loss, loader), (model, loss, loader))
    )
    assert short.defenses == whole.defenses
    assert (short.notes, short.learning_rate) == (whole.notes, 0.05)
    assert short.loss is whole.loss is loss.criterion
