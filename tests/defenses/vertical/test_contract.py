"""What every defense at the cut promises. Driven by the registry: a new file is covered without a change."""

from typing import Any

import pytest
import torch

from fedsim.core import registry
from fedsim.questions.vertical.hooks import CutDefense

METHODS = registry.methods("defense", CutDefense)


def acted(name: str) -> tuple[Any, Any]:
    """What becomes of gradients and of labels."""
    source = torch.Generator().manual_seed(0)
    gradients, labels = torch.randn(40, 6, generator=source).double(), torch.arange(40) % 2
    defense = METHODS[name].make(METHODS[name].config())
    kept = gradients.clone(), labels.clone()
    covered = defense.perturb_gradients(gradients, labels, torch.Generator().manual_seed(1))
    relabelled = defense.relabel(labels, 2, torch.Generator().manual_seed(2))
    assert torch.equal(gradients, kept[0])
    assert torch.equal(labels, kept[1])
    assert covered.shape == gradients.shape
    assert covered.dtype == gradients.dtype
    assert bool(covered.isfinite().all())
    assert relabelled.shape == labels.shape
    assert set(relabelled.tolist()) <= {0, 1}
    return (gradients, covered), (labels, relabelled)


@pytest.mark.parametrize("name", METHODS)
def test_it_changes_something_and_the_same_generator_gives_the_same_bits(name: str) -> None:
    (gradients, covered), (labels, relabelled) = acted(name)
    assert not (torch.equal(gradients, covered) and torch.equal(labels, relabelled))
    (_, again), (_, relabelled_again) = acted(name)
    assert torch.equal(covered, again)
    assert torch.equal(relabelled, relabelled_again)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_zero_are_no_trouble(name: str) -> None:
    defense = METHODS[name].make(METHODS[name].config())
    covered = defense.perturb_gradients(
        torch.zeros(8, 3).double(), torch.arange(8) % 2, torch.Generator().manual_seed(1)
    )
    assert torch.equal(covered, torch.zeros(8, 3).double())
