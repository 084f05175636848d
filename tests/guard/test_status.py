"""What a person reads of a ledger agrees with what the guard does next."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.guard.policy import GuardPolicy, read_policy
from fedsim.guard.status import status_of
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.ledger import BudgetSpent, Ledger
from tests.guard.site import policy


@pytest.fixture
def rules(tmp_path: Path) -> GuardPolicy:
    policy(tmp_path, budget={"epsilon": 4.5, "delta": 1e-5})
    return read_policy(tmp_path / "guard.toml")


def reserve(rules: GuardPolicy, run: str, app: str = "a" * 64) -> int:
    mechanisms = [mod.mechanism for mod in rules.mods() if mod.mechanism is not None]
    ledger = Ledger.open(rules.ledger, rules.key)
    return ledger.reserve(rules.subject, mechanisms, rules.budget.allowance, {"run": run, "app": app})


def test_a_new_site_has_spent_nothing(rules: GuardPolicy) -> None:
    now = status_of(rules)
    assert (now.spent, now.entries, now.runs) == (0.0, 0, ())


def test_rounds_left_are_those_that_the_ledger_grants(rules: GuardPolicy) -> None:
    left = status_of(rules).rounds_left
    assert left > 0
    for number in range(left):
        reserve(rules, str(number))
    assert status_of(rules).rounds_left == 0
    with pytest.raises(BudgetSpent):
        reserve(rules, "one more")


def test_each_run_is_told_with_its_rounds_and_what_is_open(rules: GuardPolicy) -> None:
    first = reserve(rules, "1")
    reserve(rules, "1")
    reserve(rules, "2", "b" * 64)
    Ledger.open(rules.ledger, rules.key).settle(first)
    now = status_of(rules)
    assert [(share.run, share.app[:1], share.rounds) for share in now.runs] == [("1", "a", 2), ("2", "b", 1)]
    assert now.runs[0].alone == epsilon([Spent(2.0, 1.0, 2)], 1e-5).value
    assert now.spent == epsilon([Spent(2.0, 1.0, 3)], 1e-5).value
    assert (now.unanswered_rounds, now.entries, now.truncated_lines) == (2, 4, 0)


def test_another_subject_and_cut_lines_are_told_apart(rules: GuardPolicy) -> None:
    reserve(rules.model_copy(update={"subject": "another ward"}), "1")
    with rules.ledger.open("ab") as file:
        file.write(b"half a li")
    reserve(rules, "2")
    now = status_of(rules)
    assert [share.run for share in now.runs] == ["2"]
    assert (now.truncated_lines, now.entries) == (1, 3)


def test_evaluations_are_told_apart_and_count_in_the_rounds_left(tmp_path: Path) -> None:
    metric = {"low": 0.0, "high": 1.0, "noise_multiplier": 2.0}
    rules = {"types": ["train", "evaluate"], "evaluate": "run"}
    policy(tmp_path, budget={"epsilon": 4.5, "delta": 1e-5}, messages=rules, metrics={"accuracy": metric})
    both = read_policy(tmp_path / "guard.toml")
    ledger = Ledger.open(both.ledger, both.key)
    ledger.reserve("ward", both.mechanisms(), both.budget.allowance, {"run": "1", "app": "a", "category": "train"})
    evaluation = {"run": "1", "app": "a", "category": "evaluate"}
    ledger.reserve("ward", both.metric_mechanisms(1), both.budget.allowance, evaluation)
    now = status_of(both)
    assert [(share.rounds, share.evaluations) for share in now.runs] == [(1, 1)]
    assert now.spent == epsilon([Spent(2.0, 1.0, 2)], 1e-5).value
    left = now.rounds_left
    assert epsilon([Spent(2.0, 1.0, 2 + 2 * left)], 1e-5).value <= 4.5
    assert epsilon([Spent(2.0, 1.0, 4 + 2 * left)], 1e-5).value > 4.5
