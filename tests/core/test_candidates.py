"""The order of `auto`, and the reasons why attacks are not tried."""

from collections.abc import Callable
from typing import Any

import pytest

from fedsim.core import registry
from fedsim.core.candidates import TRIED_EFFORTS, rank_candidates
from fedsim.core.hooks import CostEstimate


def test_candidates_are_ordered_by_effort_then_by_price(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    ranked = list(rank_candidates(observation, 20))
    keys = [(TRIED_EFFORTS.index(candidate.attack.effort), candidate.price) for candidate in ranked]
    assert keys == sorted(keys)
    assert len(keys) > 20


def test_baselines_reference_attacks_and_attacks_that_are_left_out_are_no_candidates(
    watched: Callable[..., Any],
) -> None:
    observation, _, _ = watched()
    names = {candidate.name for candidate in rank_candidates(observation, 20, ("r-gap",))}
    assert names.isdisjoint({"cpl", "dlg", "auto", "r-gap", "mixup-inversion"})
    undoing = {candidate.name for candidate in rank_candidates(observation, 20, inverts_augmentation=True)}
    assert "mixup-inversion" in undoing
    assert names.isdisjoint(undoing)


def test_a_refusal_states_the_reason_and_an_attack_that_applies_has_none(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    ranked = {candidate.name: candidate for candidate in rank_candidates(observation, 20)}
    assert ranked["closed-form-linear"].refusal(observation) == ""
    assert ranked["closed-form-vit"].refusal(observation).startswith("does not apply: no layer projects patches")


def test_an_attack_that_raises_is_ranked_last_of_its_effort(
    watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    observation, _, _ = watched()

    def fail(*_: object) -> CostEstimate:
        raise ZeroDivisionError("a bug")

    kind = registry.get("attack", "closed-form-linear").make
    monkeypatch.setattr(kind, "outlook", fail)
    monkeypatch.setattr(kind, "not_applicable", fail)
    algebra = [candidate for candidate in rank_candidates(observation, 20) if candidate.attack.effort == "algebra"]
    assert algebra[-1].name == "closed-form-linear"
    assert algebra[-1].failure == algebra[-1].refusal(observation)
    assert algebra[-1].failure.startswith("failed: ZeroDivisionError: a bug")
