"""Rows and label sums of leaves are exact, whatever the settings."""

import pytest
import torch

from fedsim.questions.trees.metrics import leaf_counts_exact, targets_exact
from fedsim.questions.trees.observe import leaf_sums
from tests.attacks.trees.seats import answer, seat
from tests.questions.trees.growing import tree_federation

SETTINGS = [
    (seed, method, (0, 1, 5)[seed % 3], (0.1, 0.3, 1.0)[seed % 3]) for seed in range(10) for method in ("hist", "exact")
]


@pytest.mark.parametrize("numbers", [False, True], ids=["log loss", "squared error"])
def test_every_leaf_of_twenty_federations_is_read(numbers: bool) -> None:
    for seed, method, penalty, eta in SETTINGS:
        view, rows = seat(numbers=numbers, seed=seed, tree_method=method, penalty=penalty, eta=eta, trees=1)
        sums = leaf_sums(view, rows.inputs, rows.labels)
        assert leaf_counts_exact(answer("leaf-counts", view), sums).value == 1.0
        assert int(sums[:, 0].sum()) == 40


def test_a_leaf_of_one_row_gives_its_target() -> None:
    view, rows = seat(numbers=True, depth=6, trees=1)
    sums, read = leaf_sums(view, rows.inputs, rows.labels), answer("leaf-counts", view)
    alone = sums[:, 0] == 1
    assert bool(alone.any())
    # float32 sums of numbers of about 1 and a base score of six digits
    assert torch.allclose(read[alone, 1], sums[alone, 1], atol=1e-5)
    assert targets_exact(read, sums).value == int(alone.sum()) / 40


def test_a_base_score_that_the_server_fixes_is_read_too() -> None:
    view, rows = seat(base_score=0.5, trees=1)
    assert view.first.base == 0.5
    assert torch.equal(answer("leaf-counts", view), leaf_sums(view, rows.inputs, rows.labels))


def test_shuffled_labels_are_read_as_they_were_trained_on() -> None:
    federation = tree_federation()
    run = federation.run("labels shuffled")
    view, trained_on = federation.view(run, 0), run.shares[0]
    read = answer("leaf-counts", view)
    assert torch.equal(read, leaf_sums(view, trained_on.inputs, trained_on.labels))
    assert not torch.equal(read, leaf_sums(view, trained_on.inputs, federation.shares[0].labels))
