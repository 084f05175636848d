"""Labels alone: the classes of a linear model written out, and what has none."""

from dataclasses import replace

import torch

from attacks.membership._labels import explain_missing_classes, is_right
from fedsim.core.types import Batch
from tests.attacks.membership.linear import observed


def test_it_is_the_class_of_the_last_weights() -> None:
    seen = observed()
    own = seen.weights[-1][1]
    logits = seen.candidates.inputs @ own["weight"].T + own["bias"]
    assert torch.equal(is_right(seen, seen.candidates.inputs), (logits.argmax(1) == seen.candidates.labels).double())


def test_labels_that_are_no_classes_are_refused() -> None:
    seen = observed()
    assert explain_missing_classes(seen) is None
    tokens = Batch(seen.candidates.inputs, torch.zeros(6, 3, dtype=torch.long))
    assert "no class" in (explain_missing_classes(replace(seen, candidates=tokens)) or "")
