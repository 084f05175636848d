"""A search for a text, its masked places and its rate: zero at the truth, and told, searched or estimated draws."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.text.masked_matching import MaskedMatching, MaskedMatchingConfig, _Draws, _relative, _Task
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Step, Truth

Texts = Callable[[int], tuple[Observation, Truth]]
Named = Callable[..., Attack[Any]]


def draws(truth: Truth) -> _Draws:
    step = truth.draws[0]
    return _Draws(step["task.masked"].float(), step["task.rate"].float())


def objective(observation: Observation, truth: Truth, given: _Draws) -> Tensor:
    task = _Task.of(observation, MaskedMatchingConfig(temperature=0.02), given)
    vectors = task.table[truth.private[0].inputs]
    others = {"masked": (given.masked[None],), "rate": (given.rate[None],)}
    return _relative(task.comparison.gradients(vectors[None], (), torch.zeros(1, 1), [0], others)).detach()


def test_the_objective_is_zero_at_the_truth_and_nowhere_near_it_at_other_draws(masked_texts: Texts) -> None:
    observation, truth = masked_texts(1)
    true = draws(truth)
    assert 0 < true.masked.sum() < true.masked.numel()
    assert float(objective(observation, truth, true)) < 1e-6
    assert float(objective(observation, truth, true._replace(masked=1 - true.masked))) > 0.1
    assert float(objective(observation, truth, true._replace(rate=true.rate / 2))) > 0.1


@pytest.mark.parametrize("how", ["told", "estimated", "searched"])
def test_draws_are_told_estimated_or_searched(how: str, masked_texts: Texts, attack_named: Named) -> None:
    observation, truth = masked_texts(1)
    settings = {"draws": "estimated" if how == "estimated" else "searched", "max_iterations": 6}
    if how == "told":
        observation = replace(observation, draws=truth.draws)
    steps: list[Step] = []
    found = attack_named("masked-matching", **settings)(observation, seeding.generator(0, "attack"), steps.append)
    true = draws(truth)
    assert [step.iteration for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.guess.shape for step in steps} == {found.inputs.shape}
    assert found.inputs.shape == truth.private[0].inputs.shape
    if how != "searched":
        assert found.facts["masked places"] == true.masked.sum()
    wanted = {"told": float(true.rate), "estimated": float(true.masked.mean())}
    if how in wanted:
        assert found.facts["masking rate of text 1"] == pytest.approx(wanted[how], rel=1e-6)
    else:
        assert found.facts["masking rate of text 1"] != 0.5


def test_draws_of_several_texts_are_not_estimated_and_other_models_are_refused(
    masked_texts: Texts, watched: Callable[..., Any], written_text: dict[str, Any], attack_named: Named
) -> None:
    attack = attack_named("masked-matching", draws="estimated")
    assert isinstance(attack, MaskedMatching)
    with pytest.raises(NotApplicable, match="spans do not show which places are masked together"):
        attack(masked_texts(2)[0], seeding.generator(0, "attack"))
    observation, _, _ = watched(**written_text, federation={"batch_size": 1}, knows=("batch-size",))
    with pytest.raises(NotApplicable, match="no mask token"):
        attack(observation, seeding.generator(0, "attack"))
