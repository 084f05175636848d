"""Directions in which an adapter is blind to what it was trained on: by hand, in federations, where there are none."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attacks.membership.adapter_certificate import blind
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Tensors
from fedsim.experiment import runner
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.observe import Case
from fedsim.questions.membership.types import MembershipObservation
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.threat.replay import replay
from tests.attacks.solving import sending

WIDE, HIGH, RANK, SCALE = 96, 40, 16, 2.0
WORDS = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them", "when", "it", "ends"]


def trained(inputs: Tensor, generator: torch.Generator, *, momentum: float, decay: float, eta: float) -> list[Tensor]:
    """A before, A and B after 25 steps, written out, of half of the inputs each: G is any gradient of the output.

    eta: of ALLoRA's factors on the rows of B's gradient; 0 for none.
    """
    first = a = torch.rand(RANK, WIDE, generator=generator, dtype=torch.float64) - 0.5
    b = torch.zeros(HIGH, RANK, dtype=torch.float64)
    speeds = [torch.zeros_like(a), torch.zeros_like(b)]
    for _ in range(25):
        x = inputs[torch.randperm(len(inputs), generator=generator)[: len(inputs) // 2]]
        g = torch.randn(len(x), HIGH, generator=generator, dtype=torch.float64)
        if eta:
            g = g / (b.norm(dim=1) + 1 / eta**2).sqrt()
        gradients = [SCALE * b.T @ g.T @ x + decay * a, SCALE * g.T @ (x @ a.T) + decay * b]
        speeds = [momentum * speed + gradient for speed, gradient in zip(speeds, gradients, strict=True)]
        a, b = a - 0.01 * speeds[0], b - 0.01 * speeds[1]
    return [first, a, b]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("eta", [0.0, 5.0])
def test_members_of_any_plain_training_are_not_seen_and_others_are(momentum: float, decay: float, eta: float) -> None:
    """With weight decay too, which scales A and B and leaves the space of all A x alone."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, WIDE, generator=generator, dtype=torch.float64)
    first, last, b = trained(inputs, generator, momentum=momentum, decay=decay, eta=eta)
    strangers = torch.randn(2000, WIDE, generator=generator, dtype=torch.float64)
    found: list[Tensor] = []
    for a in (first, last):
        c = blind(a, b, 1e-9)
        assert c.shape == (RANK - 6, WIDE)
        inside, outside = ((x @ c.T).norm(dim=1) / x.norm(dim=1) for x in (inputs, strangers))
        assert float(inside.max()) < 1e-10
        assert float(outside.min()) > 0.1
        found.append(c)
    if not decay:
        assert torch.allclose(found[0], found[1], atol=1e-10)  # with the first A, which is known, B alone is enough


@pytest.mark.parametrize(("inputs", "is_void"), [(15, False), (16, True), (17, True), (30, True)])
def test_it_is_void_from_as_many_inputs_on_as_the_rank(inputs: int, is_void: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(inputs, WIDE, generator=generator, dtype=torch.float64)
    a, _, b = trained(x, generator, momentum=0.0, decay=0.0, eta=0.0)
    assert (blind(a, b, 1e-9) is None) is is_void


@given(st.integers(1, 5), st.integers(0, 99))
def test_it_is_what_the_explicit_projector_leaves(rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    b = torch.randn(7, rank, generator=generator, dtype=torch.float64) @ torch.randn(
        rank, 6, generator=generator, dtype=torch.float64
    )
    c = blind(a, b, 1e-9)
    explicit = a - torch.linalg.pinv(b, rtol=1e-9) @ b @ a
    assert torch.allclose(c.T @ c, explicit.T @ explicit, atol=1e-9)


# --- in federations

Built = Callable[..., Case]
ONE_LAYER = {"name": "lora", "targets": ["1"], "rank": 48}


@pytest.fixture
def case() -> Built:
    def build(**changes: Any) -> Case:
        tables: dict[str, Any] = {
            "title": "t",
            "seed": 3,
            "data": {"name": "digits"},
            "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0},
            "components": [ONE_LAYER],
            "membership": {"candidates": 8, "attacks": [{"name": "adapter-certificate"}]},
            "threat": {"rounds": [1]},
            **changes,
            "federation": {"algorithm": "fedavg", "clients": 20, "batch_size": 4, "local_steps": 6,
                           "optimizer": {"name": "sgd", "learning_rate": 0.1}, **changes.get("federation", {})},
        }  # fmt: skip
        scenario = parse(tables, "test")
        journal = runner.train(worlds.build(scenario), lambda _: None)
        world = worlds.build(scenario)
        truths = [replay(world, entry).truth for entry in journal.entries]
        return membership.observe_updates(world, journal, truths, tables["membership"]["candidates"])

    return build


def scored(case: Case, **settings: Any) -> Tensor:
    method = registry.get("attack", "adapter-certificate")
    attack = method.make(method.config.model_validate(settings))
    return attack(case.observation, seeding.generator(1, "score"))


def both(case: Case) -> tuple[float, float]:
    """The largest share outside of a member, and the least of another."""
    shares = -scored(case)
    return float(shares[case.is_member].max()), float(shares[~case.is_member].min())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"components": [{"name": "allora", "targets": ["1"], "rank": 48}]},
        {"components": [{**ONE_LAYER, "trains": "b"}]},
        {"threat": {"rounds": [1], "visible_parameters": ["1.lora_b.weight"]}},
        {"components": [{**ONE_LAYER, "targets": ["1", "4"]}]},  # what the second reads changes: it is left out
        {"components": [{**ONE_LAYER, "targets": ["1", "4"]}], "model": {"name": "mlp", "width": 64, "dropout": 0.3}},
        {"federation": {"optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}}},
        {"federation": {"rounds": 2}, "threat": {"rounds": [1, 2]}, "membership": {
            "candidates": 20, "attacks": [{"name": "adapter-certificate"}]}},
    ],
)  # fmt: skip
def test_examples_of_several_local_steps_are_told_from_others(changes: dict[str, Any], case: Built) -> None:
    if "membership" in changes:  # of round 2, whose adapters are not fresh, nothing is known
        own = case(**changes)
        assert float((-scored(own)[own.is_member] < 1e-5).double().mean()) >= 0.5
        assert float((-scored(own)[~own.is_member]).min()) > 0.02
        return
    inside, outside = both(case(**changes))
    assert inside < 1e-5
    assert outside > 0.02


@pytest.mark.parametrize("targets", [["1"], ["1", "4"], ["4"]])
def test_a_gradient_certifies_at_every_adapter(targets: list[str], case: Built) -> None:
    federation = {"algorithm": "fedsgd", "batch_size": 8, "local_steps": 1}
    inside, outside = both(case(components=[{**ONE_LAYER, "rank": 16, "targets": targets}], federation=federation))
    assert inside < 1e-5
    assert outside > 0.02


def test_sentences_are_certified_place_by_place(case: Built, tmp_path: Path) -> None:
    documents = [" ".join(WORDS[(5 * d + k * (d % 4 + 1)) % 13] for k in range(7)) + "." for d in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    own = case(
        data={"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 10, "words": 30},
        model={"name": "tiny-llama", "width": 64, "hidden": 64},
        components=[{"name": "lora", "targets": ["*.q_proj", "*.v_proj"], "rank": 32}],
        federation={"algorithm": "fedsgd", "clients": 2, "batch_size": 2, "local_steps": 1},
        membership={"candidates": 2, "attacks": [{"name": "adapter-certificate"}]},
    )
    inside, outside = both(own)
    assert inside < 1e-4
    assert outside > 0.02


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"components": []}, "the model has no low-rank adapter"),
        ({"federation": {"rounds": 2}, "threat": {"rounds": [2]}}, "add round 1 to threat.rounds"),
        ({"components": [{**ONE_LAYER, "rank": 16}]}, "void: B's rows span everything"),
        ({"federation": {"optimizer": {"name": "adam", "learning_rate": 0.01}}}, "void: B's rows span everything"),
        ({"components": [{**ONE_LAYER, "dropout": 0.1}]}, "change during training, by dropout"),
        ({"components": [{**ONE_LAYER, "targets": ["4"]}], "model": {"name": "mlp", "width": 64, "dropout": 0.3}},
         "change during training, by dropout"),
        ({"threat": {"rounds": [1], "visible_parameters": ["1.lora_a.weight"]}}, "add round 1 to threat.rounds"),
    ],
)  # fmt: skip
def test_it_says_why_it_does_not_apply(changes: dict[str, Any], reason: str, case: Built) -> None:
    with pytest.raises(NotApplicable, match=reason):
        scored(case(**changes))


def as_peft(observation: MembershipObservation) -> MembershipObservation:
    """Return the observation of a client that has layer "1" adapted by peft, with the same weights."""
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(observation.model)
    model.set_submodule("1", copy.deepcopy(model.get_submodule("1.base")))
    config = peft.LoraConfig(r=ONE_LAYER["rank"], lora_alpha=ONE_LAYER["rank"], target_modules=["1"])
    theirs = {"1.lora_a.": "1.lora_A.default.", "1.lora_b.": "1.lora_B.default.", "1.base.": "1.base_layer."}

    def renamed(tensors: Tensors) -> Tensors:
        heads = {name: next((own for own in theirs if name.startswith(own)), "") for name in tensors}
        return {
            f"base_model.model.{theirs.get(head, '')}{name.removeprefix(head)}": tensors[name]
            for name, head in heads.items()
        }

    updates = tuple(
        sending(update, renamed(update.update.tensors), received_weights=renamed(update.received_weights))
        for update in observation.updates
    )
    return replace(observation, model=peft.get_peft_model(model, config), updates=updates)


def test_adapters_of_peft_are_certified_alike(case: Built) -> None:
    own = case()
    theirs = Case(as_peft(own.observation), own.is_member)
    assert torch.equal(scored(theirs), scored(own))
    assert both(theirs)[0] < 1e-5
