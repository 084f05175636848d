"""The forest tells two paces without a mistake, learns which is a member's, and refuses to learn from one kind."""

from dataclasses import replace

import pytest
import torch

from attacks.generation.trace_forest import TraceForest, TraceForestConfig
from fedsim.core.errors import NotApplicable
from tests.attacks.generation.cases import case, speech

ATTACK = TraceForest(TraceForestConfig(trees=10))


def test_two_paces_are_told_apart_without_a_mistake() -> None:
    attack = ATTACK(case("prompt", "counts"), torch.Generator().manual_seed(0))
    assert attack.tolist() == speech("prompt").seen_truth.tolist()


def test_a_members_score_is_the_share_of_trees() -> None:
    attack = ATTACK(case("member", "work"), torch.Generator().manual_seed(0))
    assert attack.tolist() == speech("member").seen_truth.tolist()


def test_it_does_not_learn_from_one_kind_of_text() -> None:
    with pytest.raises(NotApplicable, match="known texts of at least two kinds"):
        ATTACK(replace(case("prompt", "counts"), labels=(0,) * 12), torch.Generator())
