"""What every attack on labels at the cut promises. Driven by the registry: a new file is covered without a change."""

from dataclasses import replace

import pytest
import torch

from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.questions.vertical.hooks import CutLabelAttack
from fedsim.questions.vertical.types import CutView
from tests.attacks.vertical.label_seats import guessed, trained_seat

ATTACKS = [*registry.methods("attack", CutLabelAttack)]
ON_GRADIENTS = [name for name in ATTACKS if registry.get("attack", name).make.reads == "gradients"]  # type: ignore[attr-defined]


def scaled(view: CutView, factor: float) -> CutView:
    steps = [replace(step, down={name: factor * part for name, part in step.down.items()}) for step in view.steps]
    return replace(view, steps=steps)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_gives_the_same_bits_again_and_leaves_its_view_alone(name: str) -> None:
    view, _ = trained_seat()
    before = [step.down["a"].clone() for step in view.steps]
    assert torch.equal(guessed(name, view), guessed(name, view))
    assert all(torch.equal(step.down["a"], one) for step, one in zip(view.steps, before, strict=True))


@pytest.mark.parametrize("name", ON_GRADIENTS)
def test_a_sum_of_losses_tells_what_their_mean_tells(name: str) -> None:
    view, _ = trained_seat()
    assert torch.equal(guessed(name, scaled(view, 32.0)), guessed(name, view))


@pytest.mark.parametrize("name", ATTACKS)
def test_without_what_it_needs_it_refuses(name: str) -> None:
    view, _ = trained_seat()
    bare = replace(
        view,
        known_rows=view.known_rows[:0],
        labels=view.labels[:0],
        steps=[replace(step, top=None) for step in view.steps],
    )
    with pytest.raises(NotApplicable):
        guessed(name, bare)
