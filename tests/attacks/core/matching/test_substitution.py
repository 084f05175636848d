"""Searches along variables of which the inputs are made, on bowls whose lowest points are known."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.core.matching.descent import Descent, DescentSettings, Search, VictimGroup, descend
from attacks.core.matching.substitution import Substitution
from attacks.core.matching.unknowns import Unknowns
from fedsim.core import seeding
from fedsim.core.types import Masks, Step
from tests.attacks.core.matching.bowls import Bowls
from tests.attacks.core.matching.measures import squared

SHAPE = (2, 3)


def drawn(_victim: int, generator: torch.Generator) -> Tensor:
    return torch.randn(SHAPE, generator=generator)


def doubled(variables: Tensor, victims: Sequence[int]) -> Tensor:
    """Twice the variables, and the victim's number on top."""
    return 2.0 * variables + torch.tensor([float(victim) for victim in victims]).view(-1, 1, 1)


def size(inputs: Tensor, _masks: Masks, _rows: Sequence[int]) -> Tensor:
    return inputs.square().flatten(1).sum(1)


def bowls(steps: list[Step], prior_weight: float = 0.0) -> Descent:
    targets = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(5))
    victims = VictimGroup(
        [],
        [torch.zeros(1, dtype=torch.long)] * 2,
        [seeding.generator(victim, "attack") for victim in range(2)],
        [steps.append, lambda _step: None],
    )
    box = (torch.full((3,), -0.1), torch.full((3,), 0.1))
    search = Search(Unknowns(), drawn, squared, lambda x, masks, rows: prior_weight * size(x, masks, rows))
    return Descent(Bowls(targets), search, victims, DescentSettings(400, 0.1, schedule="cosine"), box, restarts=2)


def test_variables_that_are_the_inputs_change_nothing_but_the_box() -> None:
    plain, along = bowls([]), bowls([])
    same = Substitution(lambda variables, _victims: variables, drawn)
    for row, other in zip(
        descend(Descent(plain.comparison, plain.search, plain.victims, plain.settings, None, 2)),
        same.substitute_inputs(descend(same.apply(along))),
        strict=True,
    ):
        assert torch.equal(row.inputs, other.inputs)
        assert row.objectives == other.objectives


def test_the_inputs_of_every_victim_are_what_its_variables_make() -> None:
    steps = list[Step]()
    descent = bowls(steps)
    variables = Substitution(doubled, drawn)
    rows = variables.substitute_inputs(descend(variables.apply(descent)))
    assert [(row.victim, row.start) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in rows:
        # Steps shrink to nothing, so that the bowl's bottom is reached up to the last of them.
        assert torch.allclose(row.inputs, descent.comparison.targets[row.victim], atol=1e-4)
    shown = steps[rows[0].iteration - 1].guess
    assert any(torch.equal(shown, row.inputs) for row in rows[:2])


def test_priors_are_those_of_the_inputs() -> None:
    """The lowest point of |x - t|^2 + |x|^2 is t / 2."""
    descent, variables = bowls([], prior_weight=1.0), Substitution(doubled, drawn)
    for row in variables.substitute_inputs(descend(variables.apply(descent))):
        assert torch.allclose(row.inputs, descent.comparison.targets[row.victim] / 2, atol=1e-4)
