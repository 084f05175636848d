"""What every attack on traces promises. Driven by the registry: a new file is covered without a change here."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.types import TraceCase
from tests.attacks.generation.cases import case

ATTACKS = registry.methods("attack", TraceAttack)
SETTINGS: dict[str, dict[str, Any]] = {"trace-mean": {"count": "accepted"}}
CLASSES = {name: own for name, method in ATTACKS.items() if (own := method.derived_from(TraceAttack)) is not None}
ASKED = [
    (name, question, view) for name, own in CLASSES.items() for question in own.questions for view in sorted(own.views)
]


def made(name: str) -> TraceAttack[Any]:
    return ATTACKS[name].make(ATTACKS[name].config.model_validate(SETTINGS.get(name, {}))).with_name(name)


def answer(name: str, given: TraceCase) -> torch.Tensor:
    return made(name)(given, seeding.generator(1, "trace"))


@pytest.mark.parametrize(("name", "question", "view"), ASKED)
def test_it_answers_for_every_seen_text_and_the_same_again(name: str, question: Any, view: Any) -> None:
    given = case(question, view)
    first, second = answer(name, given), answer(name, given)
    assert len(first) == len(given.observations)
    assert torch.equal(first, second)
    assert first.dtype == torch.double


@pytest.mark.parametrize(("name", "question", "view"), ASKED)
def test_it_tells_apart_what_differs_and_nothing_else(name: str, question: Any, view: Any) -> None:
    def kinds(leaks: bool) -> int:
        return len(answer(name, case(question, view, leaks)).unique(dim=0))

    assert (kinds(True), kinds(False)) == (2, 1)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_refuses_another_question_and_a_view_of_which_it_makes_nothing(name: str) -> None:
    attack, question = made(name), CLASSES[name].questions[0]
    other = next(own for own in ("prompt", "member", "planted", "bits") if own not in attack.questions)
    given = case(question, "counts")
    with pytest.raises(NotApplicable, match=f"it answers .*, not {other}"):
        answer(name, replace(given, question=other))
    strange = replace(given, observations=tuple(replace(own, views=("activations",)) for own in given.observations))
    with pytest.raises(NotApplicable, match="it makes nothing of the view activations"):
        answer(name, strange)
