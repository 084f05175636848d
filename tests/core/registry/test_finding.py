"""Methods are found by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Attack
from fedsim.core.registry import index
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
    assert registry.find_entries(alias) == registry.find_entries(name)
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


FRESH = """
import sys
from fedsim.core import registry
first = registry.every_metric()
imported = {name for name in sys.modules if name.startswith(("fedsim.questions.", "fedsim.tasks."))}
methods = {**registry.methods("metric"), **registry.methods("question"), **registry.methods("task")}
registered = registry.methods("metric")
again = registry.every_metric()
print(list(first) == list(again), first == again, first == {name: registered[name].declares for name in first})
print(sorted(set(registered) ^ set(first)), len(first) > 90)
print(sorted(imported & {methods[name].module for name in ("neurons", "surplus", "sources", "words_named")}))
print({"words_named", "questions_read", "surplus", "psnr"} <= set(first))
"""


def test_every_metric_is_declared_whatever_is_imported_and_no_question_is_imported_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True True True", "[] True", "[]", "True"]


def test_an_argument_that_cannot_be_read_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fedsim" / "questions" / "odd.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        'from fedsim.core.registry import metric\n\n@metric("odd", title="odd", summary="odd", digits=1 + n)\n'
        "def odd():\n    pass\n"
    )
    monkeypatch.setattr(index, "HOME", tmp_path)
    monkeypatch.setattr(index, "entries_of", lambda kind: {entry.name: entry for entry in index.read(path)})
    with pytest.raises(FedsimError, match=r"odd\.py: the arguments of @metric are read before"):
        index.metrics_beside_questions.__wrapped__()
