"""Guarantees, told for people."""

import pytest

from fedsim.record import GuaranteeRecord

STATED = {
    "source": "dp-sgd", "epsilon": 2.345, "delta": 1e-5, "rdp_epsilon": 2.9, "accountant": "PRV", "unit": "record",
    "adjacency": "add-or-remove", "noise_multiplier": 1.0, "sampling_rate": 0.01, "steps": 100,
    "composition": "100 steps", "adversary": "the server",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "neighbours", "sampling"),
    [
        ({}, "one record of a client, one more or less", "Poisson sampling at rate 0.01"),
        (
            {"unit": "client", "adjacency": "replace", "sampling_rate": 1.0},
            "a client with all records, one replaced",
            "no sampling",
        ),
    ],
)
def test_an_epsilon_is_told_with_what_it_means(changes: dict[str, object], neighbours: str, sampling: str) -> None:
    own = GuaranteeRecord.model_validate({**STATED, **changes})
    assert own.figure == "epsilon 2.35 at delta 1e-05 (RDP 2.9)"
    assert (own.neighbours, own.sampling) == (neighbours, sampling)
