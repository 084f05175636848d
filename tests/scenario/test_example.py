"""An attack's small scenario: what it leaves out, what it grants, and that it is a scenario that can be run."""

from typing import Any, ClassVar

from fedsim.core import registry
from fedsim.core.hooks import Attack, Tables
from fedsim.core.types import Config, Knowledge
from fedsim.scenario.example import SMALL, example_of, with_tables


def test_tables_join_by_key_and_a_named_method_replaces_another() -> None:
    more: Tables = {"model": {"name": "lenet"}, "federation": {"batch_size": 2}, "threat": {"victims": 2}, "task": "x"}
    assert with_tables(SMALL, more) == {
        "seed": 3,
        "data": {"name": "digits"},
        "model": {"name": "lenet"},
        "federation": {"clients": 4, "batch_size": 2},
        "threat": {"victims": 2},
        "task": "x",
    }
    assert SMALL["federation"] == {"clients": 4, "batch_size": 1}


class Needy(Attack[Config]):
    """Needs more than is granted by default, a malicious server, and two rounds."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"labels", "masks", "components"})
    crafts_model: ClassVar[bool] = True
    example: ClassVar[Tables] = {"threat": {"rounds": [1, 2]}, "attacks": [{"restarts": 2}]}

    def search(self, *_: Any) -> Any:
        """Find nothing."""


def test_it_grants_what_the_attack_needs_and_no_more() -> None:
    with registry.temporary():
        registry.attack("needy", summary="needs much")(Needy)
        tables = example_of(registry.get("attack", "needy"))
    assert tables is not None
    assert tables["threat"] == {"rounds": [1, 2], "server": "malicious"}
    assert tables["attacks"] == [{"name": "needy", "also_knows": ["components", "masks"], "restarts": 2}]


def test_defenses_and_attacks_of_questions_have_none() -> None:
    assert not any(map(example_of, registry.methods("defense").values()))
    others = [method for method in registry.methods("attack").values() if method.derived_from(Attack) is None]
    assert len(others) > 1
    assert not any(map(example_of, others))
