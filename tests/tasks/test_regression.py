"""Rows and their numbers from the update of a client that learns numbers."""

from dataclasses import replace

import pytest
import torch

from fedsim.core.errors import NotApplicable
from fedsim.core.types import Reconstruction
from fedsim.questions.attacks.ceiling import ceiling_of
from tests.tasks.targets import Build, attacked, scored, victim

TABLE = {"data": {"name": "diabetes"}}


@pytest.mark.parametrize(("attack", "batch_size"), [("closed-form-linear", 1), ("span-intersection", 4), ("auto", 4)])
@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_rows_and_numbers_come_back(scenario: Build, attack: str, batch_size: int, loss: str) -> None:
    task = {"name": "regression", "loss": loss, "width": 99.0}
    one = victim(scenario, batch_size, **TABLE, task=task)
    record = scored(one, attacked(one, attack))
    assert [item.values["row_exact"] for item in record.scores] == [1.0] * batch_size
    assert [item.values["target_read"] for item in record.scores] == [1.0] * batch_size
    assert all(item.values["target_error"] < item.values["target_error_guessed"] for item in record.scores)
    assert record.converged


def test_granted_numbers_are_matched(scenario: Build) -> None:
    one = victim(scenario, 1, **TABLE)
    guess = attacked(one, "dropout-inversion", ("labels", "batch-size", "input-statistics"), max_iterations=30)
    assert torch.equal(guess.labels, one.examples.labels)
    assert guess.objective < 0.5  # it descends from about 1; thirty steps do not end
    with pytest.raises(NotApplicable, match="infers classes alone, and the labels are numbers"):
        attacked(one, "dropout-inversion")


def test_the_ideal_attacker_knows_targets(scenario: Build) -> None:
    ceiling = ceiling_of(victim(scenario, 1, **TABLE)).ceiling
    assert ceiling.rank == 10
    assert ceiling.scores[0].values["target_read"] == 1.0


def test_wrong_numbers_explain_the_update_worse(scenario: Build) -> None:
    one = victim(scenario, 2, **TABLE)
    truth = Reconstruction.of(one.examples.inputs, one.examples.labels)
    assert one.has_converged(truth)
    assert not one.has_converged(replace(truth, labels=-one.examples.labels))
    assert one.has_converged(replace(truth, labels=one.examples.labels * torch.nan))  # who says nothing gets the truth
