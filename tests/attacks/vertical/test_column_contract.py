"""What every attack on columns at the cut promises. Driven by the registry: a new file is covered without a change."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.questions.vertical.hooks import CutFeatureAttack, CutSteering
from fedsim.questions.vertical.observe import blank_view
from tests.attacks.vertical.column_seats import EVERYTHING, guessed, seat
from tests.questions.vertical.splitting import split_federation

METHODS = registry.methods("attack", CutFeatureAttack)
ATTACKS = [*METHODS]
HONEST = [name for name in ATTACKS if not METHODS[name].derived_from(CutSteering)]
STEERING = [name for name in ATTACKS if METHODS[name].derived_from(CutSteering)]


def federation(name: str) -> Any:
    reads = METHODS[name].make.reads  # type: ignore[attr-defined]
    return split_federation(classes=6, columns=10, bottom="none" if reads == "predictions" else "dense")


@pytest.mark.parametrize("name", HONEST)
def test_it_gives_the_same_bits_again_and_leaves_its_view_alone(name: str) -> None:
    view, _ = seat(federation(name), name)
    few = {key: 4 for key in ("epochs", "rounds") if key in METHODS[name].config.model_fields}
    before = [weight.clone() for weight in view.architecture.parameters()]
    assert torch.equal(guessed(name, view, **few), guessed(name, view, **few))
    assert all(torch.equal(one, other) for one, other in zip(view.architecture.parameters(), before, strict=True))


@pytest.mark.parametrize("name", HONEST)
def test_without_what_it_needs_it_refuses(name: str) -> None:
    view, _ = seat(federation(name), name)
    bare = replace(
        view,
        public=None,
        architecture=None,
        columns=None,
        steps=[replace(step, top=None, bottoms={"a": torch.nn.Flatten()}) for step in view.steps],
    )
    with pytest.raises(NotApplicable):
        guessed(name, bare)


@pytest.mark.parametrize("name", STEERING)
def test_one_that_steers_refuses_to_begin_without_what_it_needs(name: str) -> None:
    method = METHODS[name]
    bare = replace(blank_view(federation(name), "a", EVERYTHING), public=None, architecture=None)
    with pytest.raises(NotApplicable):
        method.make(method.config()).begin(bare, torch.Generator().manual_seed(0))
