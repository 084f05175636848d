"""Methods are found by name."""

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Attack
from fedsim.core.types import Config


class Search(Attack[Config]):
    """Searches for nothing."""


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(FedsimError, match="Did you mean 'dropout-inversion'"):
        registry.get("attack", "dropout-inversoin")


@pytest.mark.parametrize(
    ("kind", "alias", "name"),
    [
        ("attack", "dia", "dropout-inversion"),
        ("attack", "rgap", "r-gap"),
        ("attack", "ig", "inverting-gradients"),
        ("attack", "map", "map-estimate"),
        ("defense", "signsgd", "sign"),
        ("component", "del", "dynamic-exit"),
        ("component", "fastv", "attention-topk"),
        ("component", "fastervlm", "cls-topk"),
    ],
)
def test_the_name_of_a_paper_finds_the_method(kind: registry.Kind, alias: str, name: str) -> None:
    assert registry.get(kind, alias) is registry.get(kind, name)
    assert registry.named(alias) == registry.named(name)
    assert alias not in registry.methods(kind)


def test_what_was_registered_in_a_block_is_entered_and_named_to_who_mistypes_it() -> None:
    with registry.temporary():
        registry.attack("quite-new", summary="is new", aliases=("qn",))(Search)
        assert registry.entries("attack")["quite-new"].names == ("quite-new", "qn")
        with pytest.raises(FedsimError, match="there is no attack 'quite-nwe'. Did you mean 'quite-new'"):
            registry.get("attack", "quite-nwe")
    assert "quite-new" not in registry.entries("attack")


def test_a_metric_that_a_question_declares_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("fedsim.core.registry.finding.add_others", looked.append)
    with pytest.raises(FedsimError, match="there is no metric 'no-such'"):
        registry.get("metric", "no-such")
    assert {"metric", "question"} == set(looked)
