"""Random pruning looks at no value."""

import pytest
import torch

from tests.defenses.stepping import here, make


@pytest.mark.paper_step("random-pruning", "k random entries are sent")
def test_random_pruning_looks_at_no_value_and_draws_anew() -> None:
    counts = torch.zeros(40)
    tensors = {"w": torch.arange(1.0, 41.0)}
    for seed in range(400):
        counts += make("random-pruning", rate=0.75).on_gradient(tensors, here(seed))["w"] != 0
    assert float((counts - 100).abs().max()) < 5 * (400 * 0.25 * 0.75) ** 0.5
