"""The end-to-end experiment in short: what holds whatever the order of the methods."""

import pytest

from benchmarks.co_teaching import NOISE, seeded


@pytest.mark.slow
def test_right_labels_are_enriched_among_those_kept_and_every_training_learns_digits() -> None:
    found = seeded(1, epochs=6, fine=2)
    accuracies = {name: value for name, value in found.items() if name.endswith("epoch")}
    assert len(accuracies) == 8
    assert all(value > 0.5 for value in accuracies.values())
    assert found["share of right labels among those kept, before"] > 1.0 - NOISE
    assert found["share of right labels among those kept, after"] > 1.0 - NOISE
    assert found["share kept"] == 0.6
    assert 1 <= found["k of Nested"] <= 128
