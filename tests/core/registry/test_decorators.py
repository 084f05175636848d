"""What a decorator takes, and what it refuses."""

from typing import Any

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Component, ModelComponent, Objective
from fedsim.core.types import Config
from tests.core.registry.layers import Nothing


class Model(ModelComponent[Config]):
    def prepare(self, model: Any, generator: Any) -> Any:
        return model


class Decoder(Component[Config]):
    """Derives from no class that anything runs."""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Decoder, r"fedsim has no hook for component 'own' .* derives from Component. Derive it .*: Adapter, Augm.*"),
        (Model, "derives from ModelComponent. Derive it from a class of"),
        (lambda config: None, "derives from no class"),
    ],
)
def test_a_component_that_nothing_runs_is_refused(kind: Any, message: str) -> None:
    with registry.temporary(), pytest.raises(FedsimError, match=message):
        registry.component("own", summary="does nothing")(kind)


def test_a_component_has_the_hook_of_its_first_base_class() -> None:
    class Both(Model, Nothing, Objective[Config]):
        """Changes the model, and has two hooks."""

    with registry.temporary():
        registry.component("own", summary="does nothing")(Both)
        assert registry.get("component", "own").hook == "layer"


def test_an_alias_is_known_to_nobody_else() -> None:
    names = [(m.kind, own) for kind in registry.KINDS for m in registry.methods(kind).values()
             for own in (m.name, *m.aliases)]  # fmt: skip
    assert len(set(names)) == len(names)
    with registry.temporary():
        for clash in ({"name": "dia"}, {"name": "own", "aliases": ("wiig",)}, {"name": "own", "aliases": ("dia",)}):
            name, aliases = str(clash["name"]), tuple(clash.get("aliases", ()))
            with pytest.raises(FedsimError, match="two attacks are called '(dia|wiig)'"):
                registry.attack(name, summary="clashes", aliases=aliases)(Nothing)
    with pytest.raises(FedsimError, match="no attack 'spear\\+'. Did you mean 'spear"):
        registry.get("attack", "spear+")


def test_a_paper_of_others_is_no_method_s_own() -> None:
    averaging = registry.get("attack", "round-averaging")
    assert (averaging.paper, averaging.related) == ("", "1906.08935")
    every = [method for kind in registry.KINDS for method in registry.methods(kind).values()]
    assert not [method.name for method in every if method.paper and method.related]
