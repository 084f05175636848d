"""Evaluate messages: constants, or the figures that the policy lists, with noise and with a charge of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from fedsim.core.types import Tensors
from fedsim.privacy.accounting import Spent
from fedsim.privacy.ledger import open_reservations
from tests.guard.guarded import NOTHING, WORDS, Guarded, figures_of, message, reason, untouched

ACCURACY = {"low": 0.0, "high": 1.0, "noise_multiplier": 2.0}
LOSS = {"low": 1.0, "high": 5.0, "noise_multiplier": 3.0, "every": 2}
RULES = {"types": ["train", "evaluate"], "evaluate": "run"}


def asking(run: int = 5, **records: Any) -> Any:
    return message(run, "evaluate", **records)


def evaluated(expected: Tensors) -> Tensors:
    """Answer 0.75 as the accuracy and 9 as the loss, which is above its range."""
    told = {"accuracy": 0.75, "loss": 9.0}
    return {name: torch.tensor(told[name], dtype=torch.float64) for name in expected}


def test_figures_are_clipped_and_noised_with_a_generator_and_the_ledger_is_charged(tmp_path: Path) -> None:
    """The expected figures are computed apart, and the cost by a second accountant."""
    drawn, expected = (torch.Generator().manual_seed(11) for _ in range(2))

    def add(tensor: torch.Tensor, deviation: float) -> torch.Tensor:
        return tensor + deviation * torch.randn((), dtype=torch.float64, generator=drawn)

    guarded = Guarded(tmp_path, add, messages=RULES, metrics={"loss": LOSS, "accuracy": ACCURACY})
    first, second = (figures_of(guarded.answer(asking(), evaluated)) for _ in range(2))
    draws = [float(torch.randn((), dtype=torch.float64, generator=expected)) for _ in range(3)]
    assert list(first) == list(second) == ["num-examples", "loss", "accuracy"]
    assert first == pytest.approx({"num-examples": 1, "loss": 3.0, "accuracy": 0.75 + 2.0 * draws[0]})
    assert second == pytest.approx(
        {"num-examples": 1, "loss": 5.0 + 3.0 * 4.0 * draws[1], "accuracy": 0.75 + 2.0 * draws[2]}
    )
    entries = guarded.ledger.entries()
    assert [entry.spent for entry in entries] == [
        (Spent(3.0, 1.0, 0), Spent(2.0, 1.0, 1)),
        (Spent(3.0, 1.0, 1), Spent(2.0, 1.0, 1)),
    ]
    assert [entry.about["category"] for entry in entries] == ["evaluate", "evaluate"]
    second_opinion = PLDAccountant(NeighboringRelation.REPLACE_ONE)
    for noise, times in ((2.0, 2), (3.0, 1)):
        # A replaced site moves a figure by its range at most; the accountant's sensitivity of a replacement is 2.
        second_opinion.compose(dp_event.GaussianDpEvent(2.0 * noise), times)
    assert guarded.ledger.spent("ward", 1e-5).value == pytest.approx(second_opinion.get_epsilon(1e-5), rel=1e-3)


def test_an_evaluation_is_declined_silently_unless_the_policy_runs_it(tmp_path: Path) -> None:
    rules = {"types": ["train", "evaluate"], "metrics": {"accuracy": 0.5}}
    guarded = Guarded(tmp_path, messages=rules)
    covered = guarded.answer(asking(), untouched)
    assert figures_of(covered) == {"num-examples": 1, "accuracy": 0.5}
    assert (covered.reservation, covered.why) == (None, "")
    assert guarded.ledger.entries() == ()


def test_an_evaluation_without_a_due_figure_runs_no_app_costs_nothing_and_counts(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, messages=RULES, metrics={"loss": LOSS})
    covered = guarded.answer(asking(), untouched)
    assert figures_of(covered) == {"num-examples": 1, "loss": 3.0}
    assert covered.reservation is None
    assert open_reservations(guarded.ledger.entries()) == set()
    assert guarded.ledger.spent("ward", 1e-5).value == 0.0
    again = Guarded(tmp_path, messages=RULES, metrics={"loss": LOSS})  # after a restart
    assert again.answer(asking(), evaluated).reservation == 3
    assert again.answer(asking(), untouched).reservation is None
    assert again.answer(asking(run=6), untouched).reservation is None


def test_trainings_and_evaluations_are_counted_apart(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, messages={**RULES, "rounds": 1}, metrics={"accuracy": ACCURACY})
    assert not guarded.answer().reply.has_error()
    assert not guarded.answer(asking(), evaluated).reply.has_error()
    assert reason(guarded.answer(train=untouched)) == f"{WORDS}this site answers 1 messages of a run."
    assert reason(guarded.answer(asking(), untouched)) == f"{WORDS}this site answers 1 messages of a run."


def test_a_spent_budget_refuses_an_evaluation_before_the_app_runs(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, messages=RULES, metrics={"accuracy": ACCURACY}, budget={"epsilon": 1.0, "delta": 1e-5})
    assert reason(guarded.answer(asking(), untouched)) == f"{WORDS}the epsilon of this site is spent."


def test_a_cost_is_recorded_before_the_app_evaluates(tmp_path: Path) -> None:
    guarded, seen = Guarded(tmp_path, messages=RULES, metrics={"accuracy": ACCURACY}), list[int]()

    def looking(expected: Tensors) -> Tensors:
        seen.append(len(guarded.ledger.entries()))
        return evaluated(expected)

    guarded.answer(asking(), looking)
    assert seen == [1]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (message(5, "evaluate.other"), "this site answers train, evaluate alone"),
        (message(5, "evaluate", more=message().content.array_records["weights"]), "a message has 2 array records"),
        (message(5, "evaluate", weights={"w": torch.ones(40, 50)}), "refused: the weights look crafted"),
    ],
)
def test_an_evaluation_that_the_policy_does_not_allow_is_refused_before_the_app_runs(
    tmp_path: Path, sent: Any, words: str
) -> None:
    guarded = Guarded(tmp_path, messages=RULES, metrics={"accuracy": ACCURACY})
    assert reason(guarded.answer(sent, untouched)).startswith(f"{WORDS}{words}")
    assert guarded.ledger.entries() == ()


def test_without_the_servers_check_crafted_weights_are_evaluated(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, server_check=False, messages=RULES, metrics={"accuracy": ACCURACY})
    sent = message(5, "evaluate", weights={"w": torch.ones(40, 50)})
    assert not guarded.answer(sent, evaluated).reply.has_error()


def test_a_failure_of_the_app_is_a_constant_sentence_where_the_policy_says_so(tmp_path: Path) -> None:
    rules = {**RULES, "on_app_failure": "error"}
    guarded = Guarded(tmp_path, messages=rules, metrics={"accuracy": ACCURACY})
    covered = guarded.answer(asking(), lambda _expected: {})
    assert reason(covered) == NOTHING
    assert covered.reservation == 1
    assert covered.why.startswith("the app failed: ")
