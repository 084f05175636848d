"""What every attack on trees promises. Driven by the registry: a new file is covered without a change."""

import json
from dataclasses import replace

import pytest
import torch

from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.questions.trees.hooks import BoxAttack, LeafAttack, RowAttack, TreeAttack
from tests.attacks.trees.seats import answer, seat

METHODS = registry.methods("attack", TreeAttack).items()
ATTACKS = [name for name, method in METHODS if method.derived_from(TreeAttack)]
ON_SUMS = [n for n, method in METHODS if any(map(method.derived_from, (LeafAttack, BoxAttack, RowAttack)))]


@pytest.mark.parametrize("name", ATTACKS)
def test_it_gives_the_same_bits_again_and_for_a_model_that_was_written_anew(name: str) -> None:
    view, _ = seat()
    anew = [{client: json.dumps(json.loads(text), indent=1) for client, text in sent.items()} for sent in view.rounds]
    first = answer(name, view)
    assert torch.equal(answer(name, view), first)
    assert torch.equal(answer(name, replace(view, rounds=anew)), first)


@pytest.mark.parametrize("name", ON_SUMS)
def test_without_sums_it_refuses(name: str) -> None:
    view, _ = seat(defense={"name": "strip-sums"})
    with pytest.raises(NotApplicable, match="covers of the trees were stripped"):
        answer(name, view)


@pytest.mark.parametrize("name", ON_SUMS)
def test_a_first_tree_that_builds_on_others_is_refused(name: str) -> None:
    view, _ = seat(client=1, exchange="cyclic", rounds=2)
    with pytest.raises(NotApplicable, match="builds on others"):
        answer(name, view)
