"""A policy in sentences: each says what the guard does, and the cost is that of a second accountant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from fedsim.guard.explanation import cost_of_run, permissions, refusals
from fedsim.guard.policy import GuardPolicy, read_policy
from fedsim.guard.status import status_of
from tests.guard.site import policy

HASH = "c" * 64
LOSS = {"low": 1.0, "high": 5.0, "noise_multiplier": 3.0, "every": 10}
RUN = {"types": ["train", "evaluate"], "evaluate": "run"}


def rules(folder: Path, **changes: Any) -> GuardPolicy:
    policy(folder, **changes)
    return read_policy(folder / "guard.toml")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Any app runs."),
        ({"apps": {"sha256": [HASH]}}, f"Apps with these SHA-256 run: {HASH}."),
        ({"apps": {"seconds": 30.0}}, "for at most 30 seconds. They may read {folder}/data.txt."),
        ({"apps": {"readable": []}}, "They may read none of your data."),
        ({"apps": {"isolation": "none"}}, "WARNING: apps run with all permissions of this user"),
        ({}, "changed by local-dp (clip = 0.5, noise_multiplier = 4.0), and num-examples = 1. A run gets at most 100"),
        ({"messages": {"metrics": {"train_loss": 0.0}}}, "and num-examples = 1, train_loss = 0."),
        ({}, "Integer arrays leave as the server sent them. So do running means and variances"),
        (
            {"defenses": [{"name": "local-dp", "noise_multiplier": 4.0, "running_statistics": "noised"}]},
            "Running means and variances of batch normalisation are clipped and noised with the weights.",
        ),
        ({"messages": {"types": ["train", "evaluate"]}}, "answered without running the app, at no cost"),
        ({"messages": RUN, "metrics": {"loss": LOSS}}, "and noised metrics: loss."),
        (
            {"messages": RUN, "metrics": {"loss": LOSS}},
            "Metric loss is clipped to the range from 1 to 5, and gets noise of standard deviation 12. Every 10 "
            "evaluations of a run send it once, and otherwise 3 in its place. A single figure costs epsilon 1.271.",
        ),
        ({}, "After a failure of the app the reply is noise"),
        ({"messages": {"on_app_failure": "error"}}, "the server learns of the failure"),
    ],
    ids=str,
)
def test_each_permission_is_said(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert sentence.format(folder=tmp_path) in "\n".join(permissions(rules(tmp_path, **changes)))


def test_what_is_not_permitted_is_not_said(tmp_path: Path) -> None:
    told = "\n".join(permissions(rules(tmp_path, messages={"types": ["evaluate"]})))
    assert "training" not in told
    assert "evaluate" not in "\n".join(permissions(rules(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "sentence", "is_said"),
    [
        ({}, "another type than train is refused", True),
        ({"messages": RUN, "metrics": {"loss": LOSS}}, "another type than train, evaluate is refused", True),
        ({}, "Every other app is refused", False),
        ({"apps": {"sha256": [HASH]}}, "Every other app is refused", True),
        ({}, "look crafted are refused", True),
        ({"server_check": False}, "look crafted are refused", False),
        ({}, "the epsilon of 'ward' above 20 at delta 1e-05", True),
    ],
    ids=str,
)
def test_each_refusal_is_said(tmp_path: Path, changes: dict[str, Any], sentence: str, is_said: bool) -> None:
    assert (sentence in "\n".join(refusals(rules(tmp_path, **changes)))) is is_said


def test_the_cost_of_a_run_is_that_of_a_second_accountant(tmp_path: Path) -> None:
    """Twelve trainings with noise 2 (clip 0.5 and noise 4 of it, neighbours twice the clip apart), one figure."""
    second_opinion = PLDAccountant(NeighboringRelation.REPLACE_ONE)
    second_opinion.compose(dp_event.GaussianDpEvent(2.0 * 2.0), 12)  # its sensitivity of a replacement is 2
    second_opinion.compose(dp_event.GaussianDpEvent(2.0 * 3.0), 1)
    told = cost_of_run(rules(tmp_path, messages=RUN, metrics={"loss": LOSS}), 12)
    (stated,) = re.findall(r"costs epsilon ([\d.]+) at delta 1e-05, within the budget of 20", told)
    assert float(stated) == pytest.approx(second_opinion.get_epsilon(1e-5), rel=1e-3)


def test_the_cost_counts_the_rounds_that_are_answered_and_says_how_many_a_new_ledger_allows(tmp_path: Path) -> None:
    few = rules(tmp_path, budget={"epsilon": 4.5}, messages={"rounds": 7})
    told = cost_of_run(few, 30)
    assert "A run of 30 rounds, of which this site answers 7, costs" in told
    assert "ABOVE the budget of 4.5" in told
    assert told.endswith(f"A new ledger allows {status_of(few).rounds_left} rounds in all.")
    assert "A run of 1 round costs epsilon 1.993" in cost_of_run(few, 1)


def test_a_policy_of_evaluations_alone_costs_its_figures_alone(tmp_path: Path) -> None:
    only = rules(tmp_path, messages={**RUN, "types": ["evaluate"]}, metrics={"loss": LOSS})
    assert "A run of 9 rounds costs epsilon 0 " in cost_of_run(only, 9)
