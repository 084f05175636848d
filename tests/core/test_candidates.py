"""The order of `auto`, and the reasons why attacks are not tried."""

import time
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


def test_the_order_depends_on_no_clock(watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    observation, _, _ = watched()
    for clock in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        monkeypatch.setattr(time, clock, lambda: pytest.fail("a clock was read"))
    ranked = list(rank_candidates(observation, 20))
    assert len(ranked) > 20
    assert not [candidate.failure for candidate in ranked if candidate.failure]


def test_a_search_that_another_candidate_runs_is_refused_unless_that_is_left_out(watched: Callable[..., Any]) -> None:
    def refusal(dropout: float, *leave_out: str) -> str:
        observation, _, _ = watched(model={"name": "mlp", "width": 24, "dropout": dropout})
        ranked = {candidate.name: candidate for candidate in rank_candidates(observation, 20, leave_out)}
        return ranked["dropout-inversion"].refusal(observation)

    assert refusal(0.0) == "runs the same search as inverting-gradients on this update"
    assert refusal(0.0, "inverting-gradients") == ""
    assert refusal(0.25) == ""


def test_of_descents_the_one_for_noise_comes_first_where_noise_is_known(watched: Callable[..., Any]) -> None:
    noise: dict[str, Any] = {"defenses": [{"name": "gradient-noise", "scale": 1e-3}], "knows": ("labels", "defenses")}

    def descents(**tables: Any) -> list[str]:
        observation, _, _ = watched(**tables)
        ranked = [own for own in rank_candidates(observation, 20000) if own.attack.effort == "descent"]
        return [candidate.name for candidate in ranked if not candidate.refusal(observation)]

    assert descents(**noise)[0] == "map-estimate"
    assert descents(**noise, federation={"batch_size": 4})[0] == "map-estimate"
    assert "map-estimate" not in descents()


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
