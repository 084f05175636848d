"""From a federation to attackers who ask for an attribute: truth, public changes, what passes the door, the record."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.types import Attribute, WireEntry
from fedsim.federation.client import local_training
from fedsim.processes.methods import InProcessRunner
from fedsim.questions.attributes import observe as attributes
from fedsim.record.store import read_record
from fedsim.report import writing
from fedsim.scenario import world as worlds
from tests.experiment.running import Build, run
from tests.questions.attributes.described import SMALL


@pytest.fixture
def world(scenario: Build) -> worlds.World:
    return worlds.build(scenario(**SMALL))


def entry(world: worlds.World, client: int = 0) -> WireEntry:
    weights = world.models.first_weights
    update, _ = local_training(world, weights, 1, client)
    return WireEntry(1, client, weights, update)


def by_hand(world: worlds.World, inputs: Tensor, label: Tensor) -> Tensor:
    model = world.models.load_weights(world.models.first_weights)
    loss = torch.nn.functional.cross_entropy(model(inputs[None]), label[None])
    return torch.cat([own.flatten() for own in torch.autograd.grad(loss, list(model.parameters()))])


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_a_public_change_is_the_gradient_of_a_public_example_that_has_the_value(scenario: Build) -> None:
    world = worlds.build(scenario(**{**SMALL, "data": {"name": "digits", "test": 30}}))
    test = world.data.dataset.test
    parity = world.data.dataset.attributes["parity"]
    made = list(attributes.public_changes(world, entry(world), "parity", parity, 30))
    assert [value for value, _ in made] == [0, 1] * int(parity.test.bincount().min())  # each example once
    for value, change in made[:3]:
        found = [
            number
            for number, (inputs, label) in enumerate(zip(test.inputs, test.labels, strict=True))
            if torch.allclose(flat(change), by_hand(world, inputs, label), atol=1e-6)  # single precision
        ]
        assert len(found) == 1
        assert parity.test[found[0]] == value
    unknown = dataclasses.replace(parity, test=parity.test.where(torch.arange(30) >= 4, -1))
    few = attributes.public_changes(world, entry(world), "parity", unknown, 2)
    assert [value for value, _ in few] == [0, 1, 0, 1]  # examples without the attribute are of no value


def test_the_truth_is_the_value_of_most_examples_and_a_tie_has_none(scenario: Build) -> None:
    federation = {"clients": 3, "batch_size": 4}
    world = worlds.build(scenario(**{**SMALL, "federation": federation, "threat": {"victims": 1}}))
    (drawn,) = world.data.numbers_of(1, 0)
    values = torch.full((len(world.data.dataset.train),), -1)

    def asked(own: list[int]) -> int | None:
        values[drawn] = torch.tensor(own)
        return attributes.value_of(world, entry(world), Attribute(("a", "b"), values, values))

    assert asked([1, 1, 1, 0]) == 1
    assert asked([1, -1, -1, -1]) == 1
    assert asked([1, 1, 0, 0]) is None
    assert asked([-1, -1, -1, -1]) is None
    known = int(drawn.max())  # examples from here on were planted, and have no attribute
    values[drawn] = (drawn == known).long()
    assert attributes.value_of(world, entry(world), Attribute(("a", "b"), values[:known], values)) == 0


def questions_check(world: worlds.World) -> None:
    for question in world.questions:
        question.check(world)


def test_a_run_asks_records_and_reports_and_its_controls_hold(scenario: Build, tmp_path: Path) -> None:
    record = run(scenario(**SMALL), tmp_path / "run")
    pairs = list(zip(record.arms[0].findings[::2], record.arms[0].findings[1::2], strict=True))
    assert [own.scope["attribute"] for own, _ in pairs] == ["label", "parity", "brightness"]
    assert [own.role for own, _ in pairs] == ["positive-control", "attack", "attack"]
    assert record.arms[0].complete
    assert read_record(tmp_path / "run").arms[0].findings == record.arms[0].findings
    label = pairs[0][0]
    assert (label.scope["values"], label.chance_level, label.n, label.scope["public"]) == (10, 0.1, 40, 300)
    for own, control in pairs:
        assert (own.state, control.role, control.chance_level) == ("recovered", "negative-control", own.chance_level)
        assert abs(control.value.value - own.chance_level) < 0.15
    assert label.value.value > 0.9  # the control that must be read: a gradient of one example shows its label
    sentences = record.threat_model
    assert any(
        "label, parity, brightness" in sentence and "30 changes for each value" in sentence for sentence in sentences
    )
    page = writing.build(tmp_path / "run").read_text(encoding="utf-8")
    assert "What are the data like?" in page
    assert "change-norms (brightness)" in page


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (
            {"attacks": [{"name": "change-norms", "attribute": "partiy"}]},
            "no attribute 'partiy'. Did you mean 'parity'",
        ),
        ({"attacks": [{"name": "change-norms"}]}, "attribute"),
        ({"attacks": [{"name": "change-norms", "attribute": "parity", "probe": "no"}]}, "there is no probe 'no'"),
        ({"attacks": []}, "at least 1 item"),
        ({"attacks": [{"name": "change-norm", "attribute": "parity"}]}, "change-norms"),
    ],
)
def test_a_mistake_is_named_before_the_first_round(scenario: Build, table: dict[str, Any], why: str) -> None:
    with pytest.raises(FedsimError, match=why):
        questions_check(worlds.build(scenario(**{**SMALL, "attributes": table})))


def test_a_pattern_that_matches_no_tensor_is_named_before_the_first_round(scenario: Build) -> None:
    own = {**SMALL, "threat": {"victims": 40, "visible_parameters": ["1.wieght"]}}
    with pytest.raises(
        ScenarioError, match="threat.visible_parameters: no parameter matches '1.wieght'. Did you mean '1.weight'"
    ):
        questions_check(worlds.build(scenario(**own)))


def test_who_sees_sums_alone_cannot_ask(scenario: Build) -> None:
    with pytest.raises(ScenarioError, match="reads updates of single clients"):
        scenario(**{**SMALL, "threat": {"view": "sum"}})


def test_an_attack_that_cannot_describe_a_change_leaves_the_others_alone(world: worlds.World) -> None:
    norms = registry.get("attack", "change-norms")

    class Broken(norms.make):  # type: ignore[misc]
        def describe(self, *handed: Any) -> Tensor:
            raise ZeroDivisionError("a bug")

    class Square(norms.make):  # type: ignore[misc]
        def describe(self, *handed: Any) -> Tensor:
            return torch.zeros(2, 2)

    attacks = {
        "broken": InProcessRunner(Broken(None)),
        "square": InProcessRunner(Square(None)),
        "norms": InProcessRunner(norms.make(norms.config())),
    }
    own = attributes.describe_round(world, "parity", [entry(world)], attacks, 4)
    assert own.public_features.keys() == own.unknown.keys() == {"norms"}
    assert "ZeroDivisionError: a bug" in own.refusals["broken"]
    assert "expected a vector for each update: (4,)" in own.refusals["square"]


def test_what_an_attack_gets_holds_no_truth(world: worlds.World) -> None:
    parity = world.data.dataset.attributes["parity"]
    seen: list[Any] = []

    class Spy(registry.get("attack", "change-norms").make):  # type: ignore[misc]
        def describe(self, *handed: Any) -> Tensor:
            seen.append(handed)
            return torch.zeros(1)

    own = attributes.describe_round(world, "parity", [entry(world)], {"spy": InProcessRunner(Spy(None))}, 4)
    assert own.truth.tolist() == [int(parity.train[next(iter(world.data.numbers_of(1, 0)))])]
    assert all(isinstance(change, dict) and isinstance(source, torch.Generator) for change, source in seen)
    assert torch.equal(seen[0][1].get_state(), seen[1][1].get_state())


def test_an_attack_gets_copies_since_a_view_would_take_along_what_the_server_does_not_see(scenario: Build) -> None:
    world = worlds.build(scenario(**{**SMALL, "threat": {"visible_parameters": ["1.*"]}}))
    own = entry(world)
    whole = flat(own.update.tensors)
    parts = whole.split([tensor.numel() for tensor in own.update.tensors.values()])
    views = {key: part.view_as(own.update.tensors[key]) for key, part in zip(own.update.tensors, parts, strict=True)}
    seen: list[Any] = []

    class Spy(registry.get("attack", "change-norms").make):  # type: ignore[misc]
        def describe(self, change: Any, generator: torch.Generator) -> Tensor:
            seen.append(change)
            return torch.zeros(1)

    sent = dataclasses.replace(own, update=dataclasses.replace(own.update, tensors=views))
    attributes.describe_round(world, "parity", [sent], {"spy": InProcessRunner(Spy(None))}, 4)
    assert list(seen[0]) == ["1.weight"]
    assert seen[0]["1.weight"].untyped_storage().nbytes() == 4 * seen[0]["1.weight"].numel() < 4 * len(whole)
