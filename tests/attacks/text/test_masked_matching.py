"""A search for a text, its masked places and its rate: zero at the truth, and told, searched or estimated draws."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.core.matching.distances.relative_squared import RelativeSquaredDistance
from attacks.core.matching.terms import DistanceConfig
from attacks.core.matching.unknowns import Logits
from attacks.text import masked_matching
from attacks.text.masked_matching import MaskedMatchingConfig, _Draws, _draws, _Task
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, Step, Truth
from tests.attacks.solving import attack_named, without_information
from tests.attacks.written import WRITTEN, masked_texts
from tests.federating import watched


def draws(truth: Truth) -> _Draws:
    step = truth.draws[0]
    return _Draws(step["task.masked"].float(), step["task.rate"].float(), stand=True)


def objective(observation: Observation, truth: Truth, given: _Draws) -> Tensor:
    task = _Task.of(observation, MaskedMatchingConfig(temperature=0.02), given)
    vectors = task.table[truth.original_batches[0].inputs]
    others = {"masked": (given.masked_positions[None],), "rate": (given.rate[None],)}
    distance = RelativeSquaredDistance(DistanceConfig())
    return distance(task.comparison.gradients(vectors[None], (), torch.zeros(1, 1), [0], others)).detach()


def test_the_objective_is_zero_at_the_truth_and_nowhere_near_it_at_other_draws() -> None:
    observation, truth = masked_texts(1)
    true = draws(truth)
    assert 0 < true.masked_positions.sum() < true.masked_positions.numel()
    assert float(objective(observation, truth, true)) < 1e-6
    assert float(objective(observation, truth, true._replace(masked_positions=1 - true.masked_positions))) > 0.1
    assert float(objective(observation, truth, true._replace(rate=true.rate / 2))) > 0.1


@pytest.mark.parametrize("how", ["told", "estimated", "searched"])
def test_draws_are_told_estimated_or_searched(how: str) -> None:
    observation, truth = masked_texts(1)
    settings = {"draws": "estimated" if how == "estimated" else "searched", "max_iterations": 6}
    if how == "told":
        observation = replace(observation, draws=truth.draws)
    steps: list[Step] = []
    found = attack_named("masked-matching", **settings)(observation, seeding.generator(0, "attack"), steps.append)
    true = draws(truth)
    assert [step.iteration for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.guess.shape for step in steps} == {found.inputs.shape}
    assert found.inputs.shape == truth.original_batches[0].inputs.shape
    if how != "searched":
        assert found.diagnostics["masked places"] == true.masked_positions.sum()
    wanted = {"told": float(true.rate), "estimated": float(true.masked_positions.mean())}
    if how in wanted:
        assert found.diagnostics["masking rate of text 1"] == pytest.approx(wanted[how], rel=1e-6)
    else:
        assert found.diagnostics["masking rate of text 1"] != 0.5


def test_of_several_texts_estimates_stand_if_all_are_shown_and_else_the_search_begins_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observation, truth = masked_texts(2)
    config, own = MaskedMatchingConfig(draws="estimated"), seeding.generator(0, "attack")
    true, found = truth.draws[0]["task.masked"], _draws(observation, config, own)
    assert found.stand
    assert sorted(found.masked_positions.bool().tolist()) == sorted(true.tolist())
    assert sorted(found.rate.tolist()) == pytest.approx(sorted(true.float().mean(1).tolist()))
    monkeypatch.setattr(masked_matching, "masked_places", lambda *_: true[:1])
    half = _draws(observation, config, own)
    assert not half.stand
    assert half.rate[1] == 0.5
    places, _ = _Task.of(observation, config, half).unknowns(config, (2, 7)).blocks
    assert isinstance(places, Logits)
    (odds,) = places.start
    assert torch.equal(odds[0] > 0, true[0])
    assert odds[0].abs().max() < 3  # in a hundred of Adam's steps the search can leave it
    assert not odds[1].any()


def test_gradients_without_spans_and_other_models_are_refused() -> None:
    attack = attack_named("masked-matching", draws="estimated")
    with pytest.raises(NotApplicable, match="masked positions cannot be estimated"):
        attack(without_information(masked_texts(1)[0]), seeding.generator(0, "attack"))
    observation, _, _ = watched(**WRITTEN, federation={"batch_size": 1}, knows=("batch-size",))
    with pytest.raises(NotApplicable, match="no mask token"):
        attack(observation, seeding.generator(0, "attack"))
