"""What every membership attack promises. Driven by the registry: a new file is covered without a change here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Config
from fedsim.metrics.membership import separation
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation

ATTACKS = registry.methods("attack", MembershipAttack)


def made(name: str) -> MembershipAttack[Any]:
    return ATTACKS[name].make(ATTACKS[name].config())


def scored(attack: MembershipAttack[Any], observation: MembershipObservation) -> torch.Tensor:
    return attack(observation, seeding.generator(1, "score"))


@pytest.mark.parametrize("name", ATTACKS)
def test_it_tells_members_of_an_overfitted_model_from_others(name: str, trained_for: Any) -> None:
    attack, trained = made(name), trained_for(name)
    scores = scored(attack, trained.seen(attack))
    summary = separation(scores, trained.cases[attack.target].is_member, np.random.default_rng(0))
    assert summary.auc.value > 0.6
    assert summary.auc.low is not None
    assert summary.auc.low > 0.55


@pytest.mark.parametrize(  # lira asks many models of every candidate
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "lira" else ()) for name in ATTACKS]
)
def test_it_cannot_tell_examples_apart_that_nobody_trained_on(name: str, trained_for: Any) -> None:
    attack, trained = made(name), trained_for(name)
    scores = scored(attack, trained.of_strangers(attack))
    invented = torch.rand(len(scores), generator=torch.Generator().manual_seed(5)) < 0.5
    auc = separation(scores, invented, np.random.default_rng(0)).auc
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low <= 0.5 <= auc.high


@pytest.mark.parametrize("name", ATTACKS)
def test_it_gives_the_same_bits_again_and_leaves_what_it_saw_alone(name: str, trained_for: Any) -> None:
    attack, trained = made(name), trained_for(name)
    seen = trained.seen(attack)
    before = [tensor.clone() for tensor in (seen.candidates.inputs, *seen.model.state_dict().values())]
    first, second = scored(attack, seen), scored(attack, seen)
    assert torch.equal(first, second)
    assert first.shape == (len(seen.candidates),)
    assert not first.requires_grad
    after = (seen.candidates.inputs, *seen.model.state_dict().values())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in seen.model.parameters())


@pytest.mark.parametrize("name", ATTACKS)
def test_it_judges_every_candidate_by_itself(name: str, trained_for: Any) -> None:
    """Scores must not depend on the order, which would be the one place where membership could hide."""
    attack, trained = made(name), trained_for(name)
    seen = trained.seen(attack)
    order = torch.randperm(len(seen.candidates), generator=torch.Generator().manual_seed(1))
    both = seen.candidates
    shadows = {
        plan: tuple(replace(own, candidates=own.candidates[order]) for own in trained_)
        for plan, trained_ in seen.shadows.items()
    }
    shuffled = replace(seen, candidates=type(both)(both.inputs[order], both.labels[order]), shadows=shadows)
    assert torch.allclose(scored(attack, shuffled), scored(attack, seen)[order], rtol=1e-4, atol=1e-6)


class EmptyConfig(Config):
    """No settings."""


class Wrong(MembershipAttack[EmptyConfig]):
    """Returns what a test put there."""

    scores = torch.zeros(3)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> torch.Tensor:
        return self.scores


def test_scores_of_another_shape_or_without_a_value_are_refused(trained: Any) -> None:
    seen = trained.cases["model"].observation
    with pytest.raises(FedsimError, match=r"shape \(3,\), expected a score per candidate: \(300,\)"):
        scored(Wrong(EmptyConfig()), seen)
    undefined = Wrong(EmptyConfig())
    undefined.scores = torch.full((300,), torch.nan)
    with pytest.raises(FedsimError, match="not a number"):
        scored(undefined, seen)


def test_a_course_needs_two_models(trained: Any, attack_of: Callable[..., MembershipAttack[Any]]) -> None:
    seen = trained.cases["model"].observation
    with pytest.raises(NotApplicable, match=r"at least two rounds \(in a scenario: threat\.rounds\)"):
        scored(attack_of("loss-trajectory"), replace(seen, weights=seen.weights[-1:]))
