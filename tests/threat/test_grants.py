"""Everything that a threat model may grant is in every place that must know of it. Driven by the objects alone."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from torch import Tensor, nn

from fedsim.cli.commands._client_options import parse_knowledge
from fedsim.core import registry
from fedsim.core.hooks import Attack, Task
from fedsim.core.types import GRANTS, Knowledge, Observation, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from fedsim.threat import observe as door
from fedsim.threat.victim import Victim

DOCS = Path(__file__).resolve().parents[2] / "docs" / "scenarios.md"
NOT_GRANTED = {"threat", "loss", "device", "task"}  # everybody has them, and the first one repeats the grants


def flat(value: Any) -> Any:
    """What `==` compares of a field: tensors by their bytes, a model by its weights and dropout rates."""
    if isinstance(value, Tensor):
        return str(value.dtype), value.shape, value.detach().numpy().tobytes()
    if isinstance(value, nn.Module):
        return flat(value.state_dict()), [module.p for module in value.modules() if isinstance(module, nn.Dropout)]
    if is_dataclass(value):
        return [flat(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return {name: flat(one) for name, one in value.items()}
    return [flat(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


@pytest.fixture
def seen(scenario: Callable[..., Any]) -> Callable[[Collection[Knowledge]], Observation]:
    """Go through the door with some grants, in a world that has something for each of them to open."""
    tables = {"federation": {"batch_size": 2}, "defenses": [{"name": "gradient-noise"}]}
    world = worlds.build(scenario(components=[{"name": "cutmix"}], **tables))
    first = world.models.first_weights
    victims = [
        Victim(world, WireEntry(number, 0, first, update), truth)
        for number, (update, truth) in ((number, local_training(world, first, number, 0)) for number in (1, 2))
    ]
    return lambda knows: door.observe(victims[1], knows, victims[:1])


def test_every_name_has_an_object_and_every_object_opens_a_field() -> None:
    assert tuple(GRANTS) == get_args(Knowledge)
    names = {field.name for field in fields(Observation)}
    for name, grant in GRANTS.items():
        assert grant.name == name
        assert grant.opens
        assert grant.opens <= names


@pytest.mark.parametrize("name", GRANTS)
def test_the_door_opens_what_a_grant_says_and_nothing_else(name: Knowledge, seen: Any) -> None:
    informed, without = seen(GRANTS), seen([other for other in GRANTS if other != name])
    differ = {
        field.name
        for field in fields(Observation)
        if field.name not in NOT_GRANTED | {"earlier_observations"}
        and flat(getattr(informed, field.name)) != flat(getattr(without, field.name))
    }
    differ |= (
        {"earlier_observations"} if len(informed.earlier_observations) != len(without.earlier_observations) else set()
    )
    assert differ == GRANTS[name].opens


def test_sentences_say_of_each_grant_who_has_it_and_who_lacks_it(
    scenario: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_exists", lambda _world, _name: True)
    monkeypatch.setattr(door, "_is_at_stake", lambda _world, _name: True)
    knowing, blind = (door.describe(worlds.build(scenario(threat={"knows": list(knows)}))) for knows in (GRANTS, ()))
    (known,) = [sentence for sentence in knowing if sentence.startswith("It knows the model")]
    for grant in GRANTS.values():
        assert f", {grant.has}" in known
        assert f"It {grant.lacks}." in blind
        assert f"It {grant.lacks}." not in knowing


def test_the_manual_and_the_command_line_know_each_of_them() -> None:
    manual = DOCS.read_text()
    assert [name for name in GRANTS if f"| `{name}` | " not in manual] == []
    assert parse_knowledge(",".join(GRANTS)) == tuple(GRANTS)


def test_what_methods_and_tasks_ask_for_is_there() -> None:
    of_tasks = {name for name, grant in GRANTS.items() if grant.depends_on_task}
    for method in registry.methods("attack", Attack).values():
        assert method.derived_from(Attack).needs <= set(GRANTS), method.name
    for method in registry.methods("task", Task).values():
        assert method.derived_from(Task).knowable <= of_tasks, method.name


def test_no_real_attacker_has_what_a_client_draws() -> None:
    assert {name for name, grant in GRANTS.items() if grant.is_drawn} == {
        name for name, grant in GRANTS.items() if grant.realistic == "no"
    }
